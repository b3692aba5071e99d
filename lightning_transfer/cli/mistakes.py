"""Words a user's mistake in one line: what was wrong, and the nearest name that would have been right."""

import errno
import re
import sys
import textwrap
from collections.abc import Callable
from typing import Any, NoReturn

from jsonargparse import ArgumentParser

import lightning_transfer
from lightning_transfer.cli.named_configs import CONFIG_ACTIONS, NamedConfig
from lightning_transfer.cli.origins import (
    described,
    is_below_parser,
    is_restoring,
    origin,
    own_line,
    place_in_config,
    task_of,
)
from lightning_transfer.cli.suggestions import nearest
from lightning_transfer.errors import UserError, did_you_mean, options_of_task
from lightning_transfer.run.verbosity import print_styled

_UNKNOWN_OPTION = re.compile(r"unrecognized arguments: --(?P<a>[\w.]+)|option '(?P<b>[\w.]+)'", re.IGNORECASE)
_UNKNOWN_CLASS = re.compile(r'(key "|--)(?P<key>[\w.]+)("|: ).*dot import path string: (?P<name>\S+)')
_NO_NUMBER = re.compile(r"[+-]?(inf(inity)?|nan)", re.IGNORECASE)  # it is tried as a class where a tensor will do
_NOT_IMPORTED = re.compile(
    r'(key "|--)(?P<key>[\w.]+)("|: ).*Problem with given class_path \'(?P<name>[\w.]+)\': '
    r"(?P<reason>.*?)( - Expected .*| Given value.*|$)"
)
_LITERAL = re.compile(r"typing\.Literal\[([^\]]*)\]")
_AMBIGUOUS_CLASS = re.compile(
    r'key "(?P<key>[\w.]+)".*Multiple subclasses with name (?P<name>\w+)\..*ambiguity: (?P<paths>[\w., ]+)\.'
)
_EXPECTED = r"Expected an? (?:<class '[\w.]*?(\w+)'>|typing\.Literal\[([^\]]*)\]|(tuple with \d+ elements))"
_WRONG_VALUE = re.compile(
    rf'Parser key "(?P<key>[\w.]+)": (Does not validate .* Errors: )?(?P<expected>((- )?{_EXPECTED}[. ]*)+)'
    r"(Got value: |Given value type: .* Given value: )(?P<value>.*?)( - Expected an? .*)?"
)
_NO_MAPPING = re.compile(r'Parser key "(?P<key>[\w.]+)": .* Given value: (?P<value>\{\w+:[^ ].*)')  # YAML wants a blank
_NO_CLASS = re.compile(
    r'Parser key "(?P<key>[\w.]+)": (?!.*Problem with given class_path).*'
    r"(Not a valid subclass of|expects a function or a callable class|argument of type '\w+' is not iterable)"
)
_GIVEN = re.compile(r"(Got value: |but got )(?P<value>.*?)( Sub\w+ types| - |\. Got value| Given value|$)")
_NO_SECTION = re.compile(r'Parser key "(?P<key>[\w.]+)": Unable to load config (?P<value>\S+)')
_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "list": "a list",
    "Sequence": "a list",
    "dict": "a mapping",
    "Mapping": "a mapping",
    "NoneType": "null",
}
_OF_A_SWITCH = re.compile(r"unrecognized arguments: (?P<value>true|false)\b", re.IGNORECASE)
_MISSING = re.compile(r"the following arguments are required: (?P<names>.+)")
_STATE_DICT = re.compile(r"Error\(s\) in loading state_dict for \w+:(?P<differences>.*)", re.DOTALL)
_CHOICES = ("phases", "until", "plateau")  # a later one replaces an earlier one as a whole
_SHORT = 200  # characters
_UNUSED = "parameters that were not used in producing the loss"  # Lightning, of DDP
# Lightning and torch word these errors clearly: too few batches, and a metric or a size that is not known.
_CLEAR = ("`val_check_interval`", "Early stopping conditioned on metric", "Attempted to use an uninitialized parameter")
_DEAD_WORKER = re.compile(
    r"DataLoader worker \(pid(\(s\))? (?P<pid>[\d, ]+)\) (is (?P<killed>killed by signal: .*)|exited unexpectedly)"
)
_NO_MEMORY = re.compile("allocate memory|out of memory")  # of the machine, and of an accelerator
_OF_OTHER_STATE = (AssertionError, AttributeError, LookupError, TypeError, ValueError)
_NOISE = re.compile(r"( - )?(Subtypes: \[.*?\]|Given value.*|Does not validate against any of the Union subtypes)")


class Parser(ArgumentParser):
    """Parses arguments. Its errors are one line, with exit status 2, and configs may be given by name."""

    def add_argument(self, *names: Any, **kwargs: Any) -> Any:
        """Adds an argument. One that takes config files also takes their names."""
        if kwargs.get("action") in CONFIG_ACTIONS:
            kwargs["action"] = NamedConfig
        return super().add_argument(*names, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Prints the error in one line and exits."""
        print_error(self.line_of(message, ex))
        raise SystemExit(2)

    def line_of(self, message: str, ex: Exception | None = None) -> str:
        """Words an error in one line. An error that a class's module raised keeps its own words."""
        line = one_line(message, self.hint, place_in_config())
        if ex is not None and own_line(raised := origin(ex)):
            line = message_of(raised) or line
        return line

    def hint(self, option: str) -> str:
        """Suggests the option that an unknown one may mean, as the end of a sentence; empty where none is near."""
        return nearest(option, self.option_names())

    def option_names(self) -> set[str]:
        """Returns the options of the command and of its subcommands, in dot notation."""
        actions = list(self._actions)
        for subparser in getattr(self._subcommands_action, "choices", {}).values():
            actions += subparser._actions
        return {action.dest for action in actions}


def print_error(line: str) -> None:
    """Prints a mistake on standard error, in red on a terminal."""
    print_styled(f"lightning-transfer: error: {line}", "red", sys.stderr)


def one_line(message: str, hint: Callable[[str], str], place: str = "") -> str:
    """Folds an error of the parser into one line, with the nearest valid name for an unknown one.

    Args:
        message: The error as jsonargparse words it.
        hint: Suggests the option that an unknown one may mean.
        place: Dotted path of the setting whose class the error is about, with a dot; empty where there is none.
    """
    message = " ".join(message.split())
    if match := _UNKNOWN_OPTION.search(message):
        name = match["a"] or match["b"]
        return f"unknown option '{place}{name}'{hint(name)}"
    if (match := _UNKNOWN_CLASS.search(message)) and _NO_NUMBER.fullmatch(match["name"].strip("'")):
        return f"{place}{match['key']} is {match['name']}: expected a finite number"
    if match := _UNKNOWN_CLASS.search(message):
        names = [*dict.fromkeys(re.findall(r"\w+", " ".join(_LITERAL.findall(message))))]
        meant = did_you_mean(match["name"], [*lightning_transfer.__all__, *names])
        way_out = meant or (names and f"expected {', '.join(names)} or a class")
        found = f"'{match['name']}' is not a class that can be imported"
        return f"{place}{match['key']}: {found}{way_out and f': {way_out}'}"
    if match := _NOT_IMPORTED.search(message):
        return f"{place}{match['key']}: '{match['name']}' is not a class that can be imported: {match['reason']}"
    if match := _NO_MAPPING.fullmatch(message):
        return f"{place}{match['key']} is {match['value']}: expected a mapping, write a blank after each colon"
    if match := _WRONG_VALUE.fullmatch(message):
        return f"{place}{match['key']} is {match['value']}: expected {_in_words(match['expected'])}"
    if match := _MISSING.search(message):
        return f"nothing is given for {place}{match['names']}: name a file that has it (--config), or give the argument"
    if match := _OF_A_SWITCH.search(message):
        way_out = "give it alone for true, and leave it out for false"
        return f"'{match['value']}' follows an option that takes no value: {way_out}"
    if match := _AMBIGUOUS_CLASS.search(message):
        paths = match["paths"].replace(", ", " or ")
        return f"{place}{match['key']}: {match['name']} is the name of several classes, write {paths}"
    if match := _NO_CLASS.search(message):
        given = _GIVEN.search(message)
        named = f"{place}{match['key']} is {given['value'] if given else 'no class'}"
        return f"{named}: expected the name of a class, or class_path and init_args"
    if match := _NO_SECTION.search(message):
        return f"{place}{match['key']} is {match['value']}: expected a mapping of its settings, or a file that has it"
    return " ".join(_NOISE.sub("", message).split())


def message_of(error: BaseException) -> str | None:
    """Words an error that is the user's mistake in one line, and gives None for any other.

    An error that a class raises when it is built is the user's mistake too, and names the line in the code. An error
    that its methods raise later is not, and keeps its traceback.
    """
    raised = origin(error)
    # Lightning's error is recognised by its name: importing its class would take seconds at every mistyped command.
    if isinstance(raised, UserError) or type(raised).__name__ == "MisconfigurationException":
        line = own_line(raised.__cause__) if raised.__cause__ is not None else None
        words, task = " ".join(str(raised).split()), task_of(raised)
        return (words if task is None else options_of_task(words, task)) + (f" ({line})" if line else "")
    if is_below_parser(raised):
        return described(raised)
    if own_line(error) is None and isinstance(error, ModuleNotFoundError):
        return " ".join(str(error).split())
    if own_line(error) is None and isinstance(error, OSError):
        return _of_the_system(error)
    if isinstance(error, RuntimeError | ValueError) and any(words in str(error) for words in _CLEAR):
        return " ".join(str(error).split())
    if isinstance(error, RuntimeError) and _UNUSED in str(error):
        return (
            "the network has parameters that a step does not use, for whose gradients ddp waits: set"
            " --trainer.strategy ddp_find_unused_parameters_true"
        )
    if (line := _of_a_dead_worker(error)) is not None:
        return line
    if isinstance(error, _OF_OTHER_STATE) and own_line(error) is None and is_restoring(error):
        return f"the state in the checkpoint does not fit this run ({described(error)}): go on from another, or anew"
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _NO_MEMORY.search(str(error))):
        asked = textwrap.shorten(str(error), _SHORT, placeholder=" ...")
        return f"there is not enough memory: give smaller sizes, as of data.batch_size{asked and f' ({asked})'}"
    if isinstance(error, RuntimeError) and (match := _STATE_DICT.match(str(error))):
        differences = textwrap.shorten(match["differences"], _SHORT, placeholder=" ...")
        return f"the checkpoint is of another model than the config: {differences}"
    return None


def _of_a_dead_worker(error: BaseException) -> str | None:
    """Words the end of a process that loads data; torch's errors for it follow one another. None for other errors."""
    one: BaseException | None = error
    line = None
    while one is not None:
        if match := _DEAD_WORKER.match(str(one)):
            how = "was " + match["killed"].strip(" .") if match["killed"] else "ended"
            reason = "memory may have run out: take fewer workers (num_workers), or smaller examples"
            line = f"a worker of the DataLoader, process {match['pid']}, {how}; {reason}"
            if match["killed"]:
                return line
        one = one.__cause__ or one.__context__
    return line


def _of_the_system(error: OSError) -> str | None:
    """Words what the operating system refuses; None for what may be a fault of the program, as a file that is gone."""
    words = {
        errno.EISDIR: "is a folder: expected a file",
        errno.ENOTDIR: "is not below a folder: choose another place, or move the file that is in its way",
        errno.EEXIST: "is there already: choose another place, or move it away",
        errno.ENAMETOOLONG: "is too long a name for a file: choose a shorter one",
        errno.EACCES: "may not be read or written: change its permissions, or choose another place",
        errno.EPERM: "may not be read or written: change its permissions, or choose another place",
        errno.EROFS: "cannot be written, as its disk can only be read: choose another place",
        errno.EMFILE: "cannot be opened, as too many files are open: raise the limit by ulimit -n",
        errno.ENOSPC: "cannot be written, as the disk is full: make room, or choose another place, as by --logs",
        errno.EDQUOT: "cannot be written, as the quota is used up: make room, or choose another place, as by --logs",
    }.get(error.errno or 0)
    return words and f"{'a file' if error.filename is None else error.filename} {words}"


def _in_words(expected: str) -> str:
    """Words what jsonargparse expected: ``<class 'int'>`` becomes "a whole number", and a literal its values."""
    words: list[str] = []
    for name, values, sizes in re.findall(_EXPECTED, expected):
        words += values.replace("'", "").split(", ") if values else [f"a {sizes}" if sizes else _KINDS.get(name, name)]
    *first, last = dict.fromkeys(words)
    return f"{', '.join(first)} or {last}" if first else last
