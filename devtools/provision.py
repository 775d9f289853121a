"""Everything a command needs before it starts."""

from . import environment, hosts
from .console import say
from .paths import HOME


def provision(extras):
    """Set up and return (python, environment variables) to run a command with.

    `extras` are the groups of packages that it needs beside ComfyUI's. Where there are any, it runs in the private
    environment, even where a user's own ComfyUI is used.
    """
    own = hosts.own_host()
    if own:
        say(f"using your ComfyUI {own.version} in {own.path} with {own.python}; nothing is installed into it")
        if not extras:
            return own.python, hosts.to_environment(own)
    HOME.mkdir(parents=True, exist_ok=True)
    environment.create()
    current = hosts.fetch(hosts.CURRENT, environment.PYTHON)
    environment.install(current.path / "requirements.txt", extras)
    return str(environment.PYTHON), hosts.to_environment(own or current)
