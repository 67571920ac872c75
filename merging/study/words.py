"""The command line of a study: its seeds are one job, not a sweep, and its rows take all other words."""

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from cl.configuration.composing import words_of_job
from cl.configuration.identity import NOT_IDENTITY, PLACES, ROOT_IS_DATA
from cl.reporting import screen
from cl.run.sweeping import SHOWING

SWEEP = ("-m", "--multirun")
# What the rows of a study set themselves, and what says so.
DECIDED = {
    **dict.fromkeys(("epochs", "steps", "finetune_epochs"), "study.passes"),
    **dict.fromkeys(("buffer.capacity", "finetune_samples"), "study.budgets"),
    "strategy": "study.strategies and study.bounds",
    "fusion": "study.fusions",
    **dict.fromkeys(("running", "sequential"), "study.orders"),
    "ema": "study.both and study.ema",
    "dataset.validation": "study.search",
    "jobs": "study.jobs",
}
NO_ROWS = ("run", "checkpoints", "initial", "overwrite")


def as_one_job(overrides: list[str], flags: list[str]) -> tuple[list[str], list[str]]:
    """The words of a command with the seeds of a study as one value; other commands are left as they are."""
    study = next((word.partition("=")[2] for word in overrides if word.startswith("study=")), "null")
    if study == "null":
        return overrides, flags
    if not {flag.partition("=")[0] for flag in flags} & SHOWING:
        screen.say(f"study {study}")
    if not set(flags) & set(SWEEP):
        return overrides, flags
    kept = []
    for override in OverridesParser.create().parse_overrides(overrides):
        if not override.is_sweep_override():
            kept.append(override.input_line)
        elif override.key_or_group == "seed":
            kept.append(f"study.seeds=[{','.join(override.sweep_string_iterator())}]")
        else:
            raise ValueError(
                f"{override.input_line}: a study compares rows of one set-up and takes several values of seed alone; "
                "call it once for each"
            )
    return kept, [flag for flag in flags if flag not in SWEEP]


def is_study(config: DictConfig) -> bool:
    """Whether a configuration of merge.py asks for a study."""
    return config.get("study") is not None


def of_study(
    config: DictConfig, given: list[str] | None = None, folder: str | None = None
) -> tuple[dict, list[str], list[str], list[int], str | None]:
    """The study's options, the words that chose them, the words for all of its rows, its seeds, and --config-dir.

    `given`: all words, with `folder` for --config-dir; None: those of the job that Hydra runs.
    """
    node = OmegaConf.to_container(config.study, resolve=True)
    seeds = node.get("seeds")
    seeds = [config.seed] if seeds is None else seeds if isinstance(seeds, list) else [seeds]
    if given is None:
        given = words_of_job()
        sources = HydraConfig.get().runtime.config_sources
        folder = next((source.path for source in sources if source.provider == "command-line"), None)
    own = [word for word in given if word.startswith(("study=", "study.")) and not word.startswith("study.seeds=")]
    shared = [word for word in given if not word.startswith(("study=", "study.", "seed="))]
    return node, own, shared, seeds, folder


def check_words(shared: list[str]) -> None:
    """Raise ValueError for a word that a study cannot give to all of its rows."""
    for word in shared:
        key = word.lstrip("+~").partition("=")[0]
        if key in DECIDED:
            raise ValueError(f"{word}: a study decides this for each row; its option is {DECIDED[key]}")
        if key.startswith(("strategy.", "fusion.")):
            name = key.partition(".")[0]
            raise ValueError(f"{word}: not every row has this {name}; set study.words.NAME=[{word}] for those that do")
        if key == "protocol":
            raise ValueError(f"{word}: a protocol is for merging alone, and a study trains both schools alike")
        if key in NO_ROWS:
            done = "; remove the folders of what is to be done again" if key == "overwrite" else ""
            raise ValueError(f"{word}: a study trains its own networks and keeps what is finished{done}")


def check_seeds(seeds: list[int]) -> None:
    """Raise ValueError for seeds that make no study."""
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"a study needs one seed or more, each once, got seed={','.join(map(str, seeds))}")


def named(shared: tuple[str, ...]) -> list[str]:
    """The words that tell one study from another: not where data lie and what is shown."""
    own_data = any(word == f"dataset={name}" for word in shared for name in ROOT_IS_DATA)
    without = NOT_IDENTITY | (PLACES - {"dataset.root"} if own_data else PLACES)
    keys = {word: word.lstrip("+~").partition("=")[0] for word in shared}
    return sorted(word for word, key in keys.items() if key not in without and not key.startswith("logger."))
