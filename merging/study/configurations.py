"""From the words of a row to the configuration of a run, as the command line would compose it, in milliseconds.

Hydra takes a tenth of a second for a configuration, and a study has hundreds of runs. So only the words that choose
options of groups are composed, once each; single values are set afterwards, which gives the same configuration.
"""

import functools
import shlex
from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from cl.configuration.composing import composed
from cl.configuration.settings import MERGE_GROUPS, MERGE_KEYS, RUN_GROUPS
from cl.run.folder import plain, run_folder
from merging.folder import merge_folder

# What every run of a study is given in addition; none of it is part of a run's identity.
QUIET = {"pictures": [], "progress": False, "baselines": []}
NO_LOGGER = {"logger": {"csv": {"_target_": "cl.reporting.loggers.base.NoLogger"}}}  # of runs that are no rows
GROUPS = {*MERGE_GROUPS, "launcher", "protocol", "experiment"}


class Configurations:
    """Configurations for the words of rows, all after `shared`, the words that the user gave for all of them.

    `folder`: the user's own options, which --config-dir names.
    """

    def __init__(self, shared: Sequence[str], folder: str | None = None):
        self.shared, self.own = tuple(shared), folder
        self._composed = functools.cache(self._compose)

    def of(self, command: str, words: Sequence[str], quiet: bool = True, **values) -> dict:
        """The configuration (resolved and checked) of run.py or merge.py with these words, and with further values.

        `quiet`: without pictures, progress and baselines.
        """
        words = last_of_each((*self._for(command), *words))
        chosen = tuple(word for word in words if not _is_value(word))
        config = self._composed(command, chosen).copy()
        OmegaConf.set_struct(config, True)
        for word in words:
            if _is_value(word):
                key, value = _parsed(word)
                OmegaConf.update(config, key, value)
        silenced = {name: item for name, item in QUIET.items() if quiet and name in config}
        for key, value in (values | silenced).items():
            OmegaConf.update(config, key, value, merge=False)
        return plain(config)

    def folder(self, command: str, words: Sequence[str], **values) -> Path:
        """Where the results of these words lie."""
        return folder_of(self.of(command, words, **values))

    def command(self, command: str, words: Sequence[str], seeds: Sequence[int]) -> str:
        """The command line that repeats it."""
        many = ["-m", f"seed={','.join(map(str, seeds))}"] if len(seeds) > 1 else [f"seed={seeds[0]}"]
        words = last_of_each((*self._for(command), *words))
        own = [] if self.own is None else ["--config-dir", shlex.quote(self.own)]
        return " ".join(["python", f"{command}.py", *own, *map(shlex.quote, words), *many])

    def _for(self, command: str) -> tuple[str, ...]:
        """The user's words, for run.py without those that only merge.py has."""
        if command == "merge":
            return self.shared
        own = {*MERGE_KEYS, "protocol"} - set(RUN_GROUPS)
        return tuple(word for word in self.shared if word.lstrip("+~").partition("=")[0].partition(".")[0] not in own)

    def _compose(self, command: str, words: tuple[str, ...]):
        return composed(command, words, self.own)


def last_of_each(words: Sequence[str]) -> tuple[str, ...]:
    """The words without those whose key comes again; what is added or taken out stays."""
    last = {word.partition("=")[0]: place for place, word in enumerate(words)}
    return tuple(word for place, word in enumerate(words) if last[word.partition("=")[0]] == place)


def folder_of(config: dict) -> Path:
    """Where the results of a configuration of run.py or merge.py lie."""
    return merge_folder(config) if "fusion" in config else run_folder(config)


def _is_value(word: str) -> bool:
    """Whether a word sets a value that is there, and chooses no option of a group."""
    key = word.partition("=")[0]
    return not key.startswith(("+", "~")) and key not in GROUPS


def _parsed(word: str) -> tuple[str, object]:
    override = OverridesParser.create().parse_override(word)
    value = override.value()
    return override.key_or_group, value
