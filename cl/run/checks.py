"""What is wrong with a configuration, said before torch is imported.

The options of each group are checked against the source of what they build (`cl.signatures`), with the conversion that
`cl.build` uses. Data set and scenario need no torch to be built and to plan the tasks, so they are: whether the files
are there and the tasks can be made is known at once. What only other components can tell is said when they are built.
"""

from cl.build import GIVEN, build, checked_options
from cl.configuration.settings import MERGE_GROUPS
from cl.reporting import custom
from cl.run.folder import check_writable, run_folder
from cl.signatures import UnreadableError, parameters_of


def check(config: dict) -> None:
    """Raise ValueError or OSError for the first mistake of a plain configuration of run.py or merge.py."""
    check_options(config)
    if config["strategy"].get("memory") is True:
        from cl.buffers.settings import check_buffer  # imports numpy, which help and finished runs do without

        check_buffer(config["buffer"])
    if config["launcher"]["hosts"] is None and config["launcher"]["hostfile"] is None:  # else the files are elsewhere
        from cl.datasets.base import check_dataset  # imports numpy, too

        dataset = build(config["dataset"], "dataset")
        check_dataset(dataset)
        build(config["scenario"], "scenario").plan(dataset)
        check_writable(run_folder(config))
    custom.check(config["metrics"])
    for name, node in config["callbacks"].items():
        _check_group(node, f"callbacks.{name}")


def check_options(config: dict) -> None:
    """Raise ValueError for an option of a group that is unknown, missing, of a wrong kind or out of range."""
    for group in MERGE_GROUPS:
        if group == "logger":
            for name, node in config[group].items():
                _check_group(node, f"{group}.{name}")
        elif group in config:
            _check_group(config[group], group)


def _check_group(node: dict, group: str) -> None:
    try:
        parameters = parameters_of(str(node.get("_target_")))
    except UnreadableError:  # the import will tell
        return
    if group == "buffer":  # also text, which is made a number when the data set is known
        from cl.buffers.settings import import_own, with_policy_options

        import_own(node)
        node, parameters = node | {"capacity": 1}, with_policy_options(parameters)
    checked_options(node, group, parameters, GIVEN.get(group, ()))
