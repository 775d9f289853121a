"""What `dev.py` is made of: provisioning (standard library only) and the commands that run in its Python."""
