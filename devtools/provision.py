"""Everything a command needs before it starts."""

from . import environment, hosts
from .console import say
from .paths import HOME


def provision(everything):
    """Set up and return (python, environment variables) to run a command with.

    `everything` asks for the private environment with the tests' packages even where a user's own ComfyUI is used.
    """
    own = hosts.own_host()
    if own:
        say(f"using your ComfyUI {own.version} in {own.path} with {own.python}; nothing is installed into it")
        if not everything:
            return own.python, hosts.to_environment(own)
    HOME.mkdir(parents=True, exist_ok=True)
    environment.create()
    current = hosts.fetch(hosts.CURRENT, environment.PYTHON)
    environment.install(current.path / "requirements.txt", everything)
    return str(environment.PYTHON), hosts.to_environment(own or current)
