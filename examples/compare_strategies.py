"""Compare four strategies over two seeds, and draw how accuracy falls as tasks are added.

    python examples/compare_strategies.py

Runs are kept in multirun/: a second call finds them finished and answers at once.
"""

import matplotlib.pyplot as plt

import remerge

runs = remerge.sweep("strategy=finetune,er,derpp,joint", "scenario=class5", seed=range(2), epochs=1)
print(runs)  # mean and standard deviation over the seeds

frame = runs.frame  # pandas: a row for each run
print(frame.groupby("strategy").average_accuracy.agg(["mean", "std"]).round(3))

for strategy in ("finetune", "er", "derpp"):
    curves = [run.accuracy_so_far for run in runs if run.strategy == strategy]
    mean = [sum(values) / len(values) for values in zip(*curves)]
    plt.plot(range(1, len(mean) + 1), mean, marker="o", label=strategy)
plt.xlabel("tasks learned")
plt.ylabel("accuracy on the tasks so far")
plt.legend()
plt.savefig("compare_strategies.png")
