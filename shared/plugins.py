"""A person's own model class or data source, by the name that the settings of this machine give it.

Names become code here alone, and such a name comes from the YAML or the command line of whoever runs the program.
What the other side sends, and what a bundle or a run's folder says, is compared with it and imported by nobody.
"""

import importlib
import traceback
from types import ModuleType

from shared.errors import ConfigError
from shared.printable import printable

OWN_FAILURES = (Exception, SystemExit)  # a person's own code may raise anything, and a script of theirs may leave


def import_own(setting: str, name: str) -> ModuleType:
    """The module of `package.module` or `package.module:Class`.

    Args:
        setting: that the name stands in, for the message.
        name: of the form that `shared/config.py` lets through.

    Raises:
        ConfigError: there is no such module, or its own code fails as it is imported.
    """
    module = name.partition(":")[0]
    try:
        return importlib.import_module(module)
    except OWN_FAILURES as error:
        raise ConfigError(
            f"{setting} = {name!r}: {module} can't be imported ({failure(error)}); expected a module of "
            f"this machine: put the folder that holds {module.partition('.')[0]} on PYTHONPATH, and see that "
            f"`python -c 'import {module}'` works"
        ) from error


def failure(error: BaseException, module: ModuleType | None = None) -> str:
    """What a person's own code raised, for a message: the kind, the text, and the last line of `module` it came by."""
    path = getattr(module, "__file__", None)
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if path and frame.filename == path]
    where = f", line {lines[-1]} of {module.__name__}" if module and lines else ""
    return f"{type(error).__name__}: {printable(str(error))}{where}"


def check_named(setting: str, named: str, option: str, given: str) -> None:
    """Refuse code that a run's folder names, which may be somebody else's, unless this machine's operator names it too.

    Args:
        setting: `model` or `data_source`.
        named: what the run's folder says.
        option: of the command line, for the message.
        given: its value, or nothing.

    Raises:
        ConfigError: the two differ.
    """
    own = "." in named or ":" in named
    if given and given != named:
        raise ConfigError(
            f"{option} {given}: the {setting} of this run is {named}; "
            + ("name that, if you have it and trust it" if own else "leave the option out")
        )
    if own and not given:
        raise ConfigError(
            f"the {setting} of this run is {named}, which is code and does not come with the run; if you have it and "
            f"trust it, say {option} {named}"
        )
