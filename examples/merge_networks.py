"""Merge networks of single tasks, and ask what rehearsal reaches with the same training.

python examples/merge_networks.py
"""

import torch

import remerge

options = {"scenario": "class2", "seed": 0, "epochs": 3}
merged = remerge.sweep("fusion=avg,ties,regmean", "baselines=[er]", command="merge", **options)
print(merged)

best = max((run for run in merged if run.kind == "merge"), key=lambda run: run.average_accuracy)
print(f"best merge: {best.fusion}, {100 * best.average_accuracy:.1f} %, in {best.folder}")

# The merged network is a module like any other.
scenario = remerge.scenario(**options)
print("its accuracy on each task:", [round(accuracy, 3) for accuracy in scenario.evaluate(best.network)])
x, y = next(iter(torch.utils.data.DataLoader(scenario[0].test, batch_size=5)))
print("labels", y.tolist(), "predicted", best.network(x).argmax(1).tolist())
