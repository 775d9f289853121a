"""What the tests share: tiny real models, settings and references, hosts, graphs, and the table of what loads."""
