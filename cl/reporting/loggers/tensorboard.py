"""TensorBoard: event files in the folder `tensorboard` of each run, merge and study.

Written with tensorboard's own records and messages: torch.utils.tensorboard imports tensorflow where it is installed,
which takes seconds. A resumed run begins another file, at whose first step TensorBoard drops what came after it before;
once the run is finished, the files are replaced by one that is made from metrics.csv and results.json.
"""

import importlib.util
import struct
import time
from collections.abc import Sequence
from pathlib import Path

from cl.reporting.loggers import told
from cl.reporting.loggers.base import Kind, Logger

FOLDER, FILES = "tensorboard", "events.out.tfevents.*.remerge"  # files of other names stay
VERSION = "brain.Event:2"  # of the format
MOST_CHARACTERS = 100  # of a value among the hyperparameters


class TensorBoardLogger(Logger):
    """Scalars against the step, and of tests against the stage; tables as text, pictures, and hyperparameters."""

    def __init__(self) -> None:
        if importlib.util.find_spec("tensorboard") is None:
            raise ValueError(
                "logger=tensorboard needs the package tensorboard: pip install 'remerge[tensorboard]', or pip install "
                "tensorboard"
            )
        self.folder, self.events = Path(), None
        self.earlier: list[Path] = []  # files of this run when it was begun before
        self.ended: list[tuple] = []  # tables and pictures, which are told once, at the end
        self.resumed = self.partial = False

    def start(self, folder: Path, config: dict, kind: Kind) -> None:
        self.folder = folder
        self.earlier = files(folder)
        self.resumed = bool(self.earlier)
        self.partial = told.begun_without(folder)
        self.events = Events(folder, self.earlier)

    def log_training(self, step: int, values: dict[str, float]) -> None:
        if self.resumed:
            self.resumed = False
            self.events.restart(step)
        self.events.scalars(step, values)

    def log_test(self, stage: int, values: dict[str, float]) -> None:
        self.events.scalars(stage, values)

    def log_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence]) -> None:
        self.ended.append(("text", name, _markdown(columns, rows)))

    def log_picture(self, path: Path) -> None:
        self.ended.append(("picture", f"pictures/{path.stem}", path.read_bytes()))

    def finish(self, results: dict) -> None:
        if (self.earlier or self.partial) and "kind" in results:  # else files of a study, which is made anew
            before, self.earlier = files(self.folder), []
            self.events.close()
            self.events = Events(self.folder, before)
            self.events.restart(0)
            told.replay(self, self.folder, results)
        else:
            before, self.earlier = self.earlier, []
        for method, name, content in self.ended:
            getattr(self.events, method)(name, content)
        if "kind" in results:
            final = {f"final/{name}": value for name, value in told.numbers(results).items()}
            self.events.scalars(0, final)
            self.events.hyperparameters(_words(results), list(final), self.folder.parent.name)
        self.close()
        for path in before:
            path.unlink(missing_ok=True)

    def close(self) -> None:
        events, self.events = self.events, None
        if events is not None:
            events.close()


class Events:
    """One event file in a folder, after the `earlier` ones by name; each record is written at once."""

    def __init__(self, folder: Path, earlier: Sequence[Path]):
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

        self.messages, self.summary, self.checksum = event_pb2, summary_pb2, masked_crc32c
        number = max((int(path.name.split(".")[3]) for path in earlier), default=-1) + 1
        self.path = folder / FOLDER / FILES.replace("*", f"{number:06d}")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.file = open(self.path, "wb", buffering=0)
        self._write(self._event(0, file_version=VERSION))

    def restart(self, step: int) -> None:
        """Have TensorBoard drop what it has of this step and those after it."""
        log = self.messages.SessionLog(status=self.messages.SessionLog.START)
        self._write(self._event(step, session_log=log))

    def scalars(self, step: int, values: dict[str, float]) -> None:
        self._values(step, [self.summary.Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])

    def picture(self, tag: str, png: bytes) -> None:
        width, height = struct.unpack(">II", png[16:24])
        image = self.summary.Summary.Image(width=width, height=height, colorspace=4, encoded_image_string=png)
        self._values(0, [self.summary.Summary.Value(tag=tag, image=image)])

    def text(self, tag: str, markdown: str) -> None:
        from tensorboard.compat.proto import tensor_pb2, types_pb2

        tensor = tensor_pb2.TensorProto(dtype=types_pb2.DT_STRING, string_val=[markdown.encode()])
        tensor.tensor_shape.dim.add(size=1)
        self._values(0, [self._plugin(f"{tag}/text_summary", "text", b"", tensor=tensor)])

    def hyperparameters(self, words: dict, metrics: Sequence[str], group: str) -> None:
        """The words of a configuration and the tags of its measures, for the tab HPARAMS; seeds are one `group`."""
        from google.protobuf import struct_pb2
        from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

        begin = plugin_data_pb2.SessionStartInfo(group_name=group, start_time_secs=time.time())
        infos = []
        for name, value in words.items():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            entry = begin.hparams[name]
            entry.CopyFrom(struct_pb2.Value(**{"number_value" if number else "string_value": value}))
            kind = api_pb2.DATA_TYPE_FLOAT64 if number else api_pb2.DATA_TYPE_STRING
            infos.append(api_pb2.HParamInfo(name=name, type=kind))
        tags = [api_pb2.MetricInfo(name=api_pb2.MetricName(tag=tag)) for tag in metrics]
        end = plugin_data_pb2.SessionEndInfo(status=api_pb2.STATUS_SUCCESS, end_time_secs=time.time())
        experiment = api_pb2.Experiment(hparam_infos=infos, metric_infos=tags)
        told_of = {
            metadata.EXPERIMENT_TAG: plugin_data_pb2.HParamsPluginData(experiment=experiment),
            metadata.SESSION_START_INFO_TAG: plugin_data_pb2.HParamsPluginData(session_start_info=begin),
            metadata.SESSION_END_INFO_TAG: plugin_data_pb2.HParamsPluginData(session_end_info=end),
        }
        for tag, content in told_of.items():
            value = self._plugin(tag, metadata.PLUGIN_NAME, content.SerializeToString(), tensor=metadata.NULL_TENSOR)
            self._values(0, [value])

    def close(self) -> None:
        self.file.close()

    def _plugin(self, tag: str, plugin: str, content: bytes, **value):
        data = self.summary.SummaryMetadata.PluginData(plugin_name=plugin, content=content)
        return self.summary.Summary.Value(tag=tag, metadata=self.summary.SummaryMetadata(plugin_data=data), **value)

    def _values(self, step: int, values: list) -> None:
        self._write(self._event(step, summary=self.summary.Summary(value=values)))

    def _event(self, step: int, **what):
        return self.messages.Event(wall_time=time.time(), step=step, **what)

    def _write(self, event) -> None:
        """A record: length and content, each with its checksum (tensorflow/core/lib/io/record_writer.h)."""
        content = event.SerializeToString()
        length = struct.pack("<Q", len(content))
        parts = length, struct.pack("<I", self.checksum(length)), content, struct.pack("<I", self.checksum(content))
        self.file.write(b"".join(parts))


def files(folder: Path) -> list[Path]:
    """The event files of remerge in a run's folder, in their order."""
    return sorted(folder.glob(f"{FOLDER}/{FILES}"))


def _words(results: dict) -> dict:
    """The words that name the configuration, with the seed: numbers, and all else as text."""
    pairs = (word.partition("=") for word in results.get("identity", ()))
    found = {name: told.read(value) for name, _, value in pairs if name != "schema"} | {"seed": results["seed"]}
    return {name: value[:MOST_CHARACTERS] if isinstance(value, str) else value for name, value in found.items()}


def _markdown(columns: Sequence[str], rows: Sequence[Sequence]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(value) -> str:
    if value is None:
        return ""
    return f"{value:.4f}" if isinstance(value, float) else str(value).replace("|", "\\|")
