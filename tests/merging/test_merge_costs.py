"""What results.json of a merge says of compute and memory, worked out by hand for every fusion.

Two tasks of five digits each, a network for each of 64, 8 and 10 units (610 weights), trained for three steps of ten.
"""

import json

import pytest
from support import ROOT

from cl.run import experiment
from merging import run
from merging.kept import Kept

WORDS = (
    "scenario=class2", "backbone.hidden=[8]", "steps=3", "batch_size=10", "progress=false", "pictures=[]",
    "optimizer=sgd", "baselines=[]",
)  # fmt: skip
NETWORK = 4 * (64 * 8 + 8 + 8 * 10 + 10)
PIXELS, ROW = 64, 64 + 8 + 8
TRAINED = 2 * 3 * 10
GRAMS = 8 * (64 * 64 + 8 * 8)  # of one network, in double precision
NOTHING = (0, 0, 0, 0)


@pytest.fixture
def results_of(compose_config):
    def make(*words: str) -> dict:
        config = compose_config(*WORDS, *words, name="merge")
        return json.loads((run.run(config)[-1] / "results.json").read_text())

    return make


def of_merge(content: dict) -> tuple[int, ...]:
    """Passes of the fusion and of what follows it."""
    names = ("forward_passes", "backward_passes", "unlabelled_forward_passes", "unlabelled_backward_passes")
    return tuple(content[name] - (TRAINED if number < 2 else 0) for number, name in enumerate(names))


# Options; passes of the fusion (forward, backward, the same of images alone); bytes of start, samples and statistics
# beside the two networks.
BY_HAND = {
    "avg": ([], NOTHING, (0, 0, 0)),
    "slerp": ([], NOTHING, (0, 0, 0)),
    "ensemble": ([], NOTHING, (0, 0, 0)),
    "rebasin": ([], NOTHING, (0, 0, 0)),
    "task_arithmetic": ([], NOTHING, (NETWORK, 0, 0)),
    "ties": ([], NOTHING, (NETWORK, 0, 0)),
    "dare": ([], NOTHING, (NETWORK, 0, 0)),
    "magmax": ([], NOTHING, (NETWORK, 0, 0)),
    "opcm": ([], NOTHING, (NETWORK, 0, 0)),
    "wudi": ([], NOTHING, (NETWORK, 0, 0)),
    "tsvm": ([], NOTHING, (NETWORK, 0, 0)),
    "iso_c": ([], NOTHING, (NETWORK, 0, 0)),
    "model_stock": ([], NOTHING, (NETWORK, 0, 0)),
    # both networks and their mean on five samples of each task
    "soup": (["fusion.samples_per_task=5"], (30, 0, 0, 0), (0, 10 * ROW, 0)),
    # a mask of a bit for each of the weights of both networks, and two factors
    "emr": (["scenario=task5", "scenario.num_tasks=2"], NOTHING, (NETWORK, 0, 2 * 77 + 2 * 4)),
    # three steps on two images of each task
    "adamerging": (
        ["fusion.samples_per_task=5", "fusion.steps=3", "fusion.batch=2"],
        (0, 0, 12, 12),
        (NETWORK, 10 * PIXELS, 0),
    ),
    # the second network and the first, to which it is moved, are shown three images of each task
    "ot": (["fusion.cost=activations", "fusion.samples=6", "fusion.anchor=first"], (0, 0, 12, 0), (0, 6 * PIXELS, 0)),
    "regmean": (["fusion.samples_per_task=5"], (0, 0, 10, 0), (0, 0, 2 * GRAMS)),
    # a pass back for each of ten outputs
    "fisher": (["fusion.samples_per_task=5"], (0, 0, 10, 100), (0, 0, 2 * NETWORK)),
    # twice through 20 samples of each task; measuring the curve at three points is not counted
    "curve": (
        ["fusion.samples_per_task=20", "fusion.epochs=2", "fusion.points=3", "fusion.plane=3"],
        (80, 80, 0, 0),
        (0, 40 * ROW, 0),
    ),
    "last": ([], (-30, -30, 0, 0), (0, 0, 0)),  # without the training of the first network
    "untrained": ([], (-60, -60, 0, 0), (0, 0, 0)),
}


def test_every_fusion_is_here():
    assert sorted(BY_HAND) == sorted(path.stem for path in (ROOT / "conf" / "fusion").glob("*.yaml"))


@pytest.mark.parametrize("fusion", BY_HAND)
def test_passes_and_bytes_of_every_fusion(results_of, fusion):
    words, passes, memory = BY_HAND[fusion]
    content = results_of(f"fusion={fusion}", *words)
    assert of_merge(content) == passes
    start, samples, statistics = memory
    networks = {"last": 1, "untrained": 1}.get(fusion, 2)  # at least the one that predicts
    persistent = {"networks": networks * NETWORK, "start": start, "samples": samples, "statistics": statistics}
    assert content["persistent"] == persistent and content["persistent_bytes"] == sum(persistent.values())
    forward, backward = (
        content[f"{way}_passes"] + content[f"unlabelled_{way}_passes"] for way in ("forward", "backward")
    )
    assert content["passes"] == pytest.approx((forward + 2 * backward) / 3)
    products = 64 * 8 + 8 * 10
    assert content["flops"] == 2 * (forward * products + backward * (products + 8 * 10))
    alone = max(0, passes[0]) + passes[2] + 2 * (max(0, passes[1]) + passes[3])
    assert content["merge_passes"] == pytest.approx(alone / 3)
    assert content["merge_gradient_steps"] == {"curve": 8, "adamerging": 3}.get(fusion, 0)


FINETUNED = ["finetune_samples=20", "finetune_epochs=2"]
CASES = {
    "fine-tuning": (["fusion=avg", *FINETUNED], (40, 40, 0, 0), (2, 0, 20 * ROW, 0)),
    "images": (["fusion=ot", "fusion.cost=activations", "fusion.samples=60", "fusion.anchor=first", *FINETUNED],
               (40, 40, 120, 0), (2, 0, 20 * ROW + 40 * PIXELS, 0)),
    "statistics": (["fusion=regmean", "fusion.samples_per_task=50", *FINETUNED],
                   (40, 40, 100, 0), (2, 0, 20 * ROW, 2 * GRAMS)),
    "sampled": (["fusion=fisher", "fusion.samples_per_task=5", "fusion.labels=sampled"],
                (0, 0, 10, 10), (2, 0, 0, 2 * NETWORK)),
    "empirical": (["fusion=fisher", "fusion.samples_per_task=5", "fusion.labels=empirical"],
                  (10, 10, 0, 0), (2, 0, 0, 2 * NETWORK)),
    # a quarter of 40 samples is held out, and shown to the curve at three points
    "held out": (["fusion=curve", "fusion.samples_per_task=20", "fusion.epochs=1", "fusion.points=3", "fusion.plane=0",
                  "fusion.at=best", "fusion.held_out=0.25"], (30 + 30, 30, 0, 0), (2, 0, 40 * ROW, 0)),
    "untrained ends": (["fusion=curve", "fusion.samples_per_task=20", "fusion.epochs=1", "fusion.points=0",
                        "fusion.plane=0", "fusion.ends=untrained"],
                       (40 - TRAINED, 40 - TRAINED, 0, 0), (1, 0, 40 * ROW, 0)),
    "barycentre": (["fusion=ot", "fusion.cost=activations", "fusion.samples=6", "fusion.anchor=barycentre",
                    "fusion.rounds=1"], (0, 0, 12, 0), (2, 0, 6 * PIXELS, 0)),
    "bias": (["fusion=regmean", "fusion.samples_per_task=5", "fusion.bias=true"],
             (0, 0, 10, 0), (2, 0, 0, 2 * 8 * (65 * 65 + 9 * 9))),
    # both networks and their mean on three images of each task
    "repair": (["fusion=rebasin", "fusion.repair=6"], (0, 0, 18, 0), (2, 0, 6 * PIXELS, 0)),
    # thirty scales on five samples of each task
    "scale": (["fusion=ties", "fusion.scale=search", "fusion.samples_per_task=5"],
              (300, 0, 0, 0), (2, NETWORK, 10 * ROW, 0)),
    "running scale": (["fusion=wudi", "fusion.scale=search", "fusion.samples_per_task=5", "running=true"],
                      (150 + 300, 0, 0, 0), (2, NETWORK, 10 * ROW, 8)),
    # running: the merge after the first task is of one network; what it is shown again has to be kept as images
    "running": (["fusion=avg", "running=true", *FINETUNED], (80, 80, 0, 0), (2, 0, 20 * ROW, 0)),
    "running regmean": (["fusion=regmean", "fusion.samples_per_task=5", "running=true"],
                        (0, 0, 5 + 10, 0), (2, 0, 10 * PIXELS, 0)),
    "running fisher": (["fusion=fisher", "fusion.samples_per_task=5", "fusion.labels=empirical", "running=true"],
                       (5 + 10, 5 + 10, 0, 0), (2, 0, 10 * ROW, 0)),
    "running opcm": (["fusion=opcm", "running=true"], NOTHING, (2, NETWORK, 0, 3 * 8)),
    # merging after every task: the statistics of both networks are those of the last merge
    "sequential": (["fusion=regmean", "fusion.samples_per_task=5", "sequential=true"],
                   (0, 0, 5 + 10, 0), (2, 0, 0, 2 * GRAMS)),
    "last of all": (["fusion=last", "strategy.init=previous"], NOTHING, (1, 0, 0, 0)),  # both stages were needed
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_options_that_change_what_is_computed_and_kept(results_of, case):
    words, passes, (networks, start, samples, statistics) = CASES[case]
    content = results_of(*words)
    assert of_merge(content) == passes
    persistent = {"networks": networks * NETWORK, "start": start, "samples": samples, "statistics": statistics}
    assert content["persistent"] == persistent


@pytest.mark.parametrize("fusion, networks", [("avg", 5), ("ensemble", 5), ("last", 1), ("untrained", 1)])
def test_five_networks(results_of, fusion, networks):
    content = results_of(f"fusion={fusion}", "scenario=class5")
    assert content["persistent"]["networks"] == networks * NETWORK
    stages = {"last": 1, "untrained": 0}.get(fusion, 5)
    assert content["forward_passes"] == content["backward_passes"] == 30 * stages


@pytest.mark.parametrize("fusion, networks, stages", [("avg", 2, 5), ("last", 1, 1), ("untrained", 1, 0)])
def test_five_networks_one_by_one(results_of, fusion, networks, stages):
    content = results_of(f"fusion={fusion}", "scenario=class5", "running=true")
    assert content["persistent"]["networks"] == networks * NETWORK
    assert content["forward_passes"] == content["backward_passes"] == 30 * stages


def test_networks_of_a_run_with_a_memory_keep_that_memory(compose_config, results_of):
    shared = [word for word in WORDS if not word.startswith("baselines")]
    words = ("strategy=er", "strategy.replay_batch_size=4", "buffer.capacity=20", "optimizer.momentum=0.9")
    folder = experiment.run(compose_config(*shared, *words))
    content = results_of(f"run={folder}", "fusion=avg")
    trained = json.loads((folder / "results.json").read_text())
    assert content["persistent"] == {"networks": 2 * NETWORK, "start": 0, "samples": 20 * ROW, "statistics": 0}
    assert content["forward_passes"] == trained["forward_passes"] == 60 + 5 * 4
    assert content["optimizer_bytes"] == NETWORK
    # The second network is what the first one became, so its passes are needed too, also where it is used alone.
    assert results_of(f"run={folder}", "fusion=last")["forward_passes"] == 80
    # A run of an earlier version does not tell; nor do files.
    for key in ("stage_counts", "persistent", "checksum"):
        del trained[key]
    (folder / "results.json").write_text(json.dumps(trained))
    unknown = results_of(f"run={folder}", "fusion=slerp", *FINETUNED)
    assert unknown["passes"] is unknown["flops"] is unknown["persistent"] is unknown["persistent_bytes"] is None
    assert unknown["merge_passes"] == 40
    files = [str(folder / f"task_{number:02d}.pt") for number in range(2)]
    of_files = results_of(f"checkpoints=[{','.join(files)}]", "fusion=avg")
    assert of_files["passes"] is None and of_files["persistent"]["networks"] == 2 * NETWORK


def test_networks_that_start_from_merges_have_these_among_their_passes(results_of):
    words = ("scenario=class5", "strategy.init=merged", "fusion=regmean", "fusion.samples_per_task=5")
    content = results_of(*words)
    # before each task but the first the networks so far are merged: of 1, 2, 3 and 4
    assert content["unlabelled_forward_passes"] == 5 * (1 + 2 + 3 + 4) + 5 * 5
    assert content["forward_passes"] == content["backward_passes"] == 5 * 30


def test_statistics_of_batch_norm_are_recomputed_from_images_without_labels(compose_config):
    words = [word for word in WORDS if not word.startswith("backbone")]
    network = ("backbone=timm", "backbone.model=test_resnet", "fusion=avg", "batch_norm_samples=8")
    content = json.loads(
        (run.run(compose_config(*words, *network, "finetune_samples=4", name="merge"))[-1] / "results.json").read_text()
    )
    # two samples of each task with labels, and two more images
    assert content["persistent"]["samples"] == 4 * ROW + 4 * PIXELS
    assert of_merge(content) == (4, 4, 8, 0)


def test_what_is_asked_for_twice_is_kept_once():
    kept = Kept()
    kept.ask(0, 5, labelled=True)
    kept.ask(0, 3, labelled=True)
    kept.ask(0, 9, labelled=False)
    kept.ask(1, 4, labelled=False)
    kept.ask(2, 2, labelled=True)
    kept.ask(2, 1, labelled=False)
    assert kept.sample_bytes(row=100, pixels=10) == (5 + 2) * 100 + (4 + 4) * 10
    kept.replace(77)
    kept.ask(1, 1, labelled=True)
    assert kept.sample_bytes(row=100, pixels=10) == 100 and kept.statistics == 77
