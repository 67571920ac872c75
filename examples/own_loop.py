"""Experience replay in a training loop of your own: remerge brings the tasks and the memory, the rest is PyTorch.

python examples/own_loop.py
"""

import torch
import torch.nn.functional as F
from torch import nn

import remerge

torch.manual_seed(0)
torch.set_num_threads(1)  # a network this small is slower on two
scenario = remerge.scenario("scenario=class5", "dataset=digits", seed=0)
buffer = remerge.ReplayBuffer(200, num_classes=scenario.num_outputs)
network = nn.Sequential(
    nn.Flatten(), nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, scenario.num_outputs)
)  # the digits have 8 x 8 pixels
optimizer = torch.optim.SGD(network.parameters(), lr=0.1)

for task in scenario:
    for epoch in range(3):
        for x, y in task.batches(batch_size=10, epoch=epoch):
            replayed = buffer.sample(10)  # nothing before the first batch was added
            if len(replayed):
                inputs, labels = torch.cat([x, replayed["x"]]), torch.cat([y, replayed["y"]])
            else:
                inputs, labels = x, y
            optimizer.zero_grad()
            F.cross_entropy(network(inputs), labels).backward()
            optimizer.step()
            buffer.add(x=x, y=y)
    row = scenario.evaluate(network)
    print(f"after task {task.number + 1}:", "  ".join(f"{100 * accuracy:5.1f} %" for accuracy in row))

print(f"average accuracy: {100 * sum(row) / len(row):.1f} %, {buffer.nbytes} bytes in the memory")
