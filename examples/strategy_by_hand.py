"""Step a strategy by hand: look at every gradient, with the numbers of `python run.py strategy=derpp`.

python examples/strategy_by_hand.py
"""

import torch

import remerge

with remerge.Learner("strategy=derpp", "scenario=class5", seed=0, epochs=1) as learner:
    for stage, tasks in enumerate(learner.stages):
        norms = []
        for batch in learner.batches(stage):
            loss = learner.step(batch)
            gradients = [weight.grad for weight in learner.network.parameters()]
            norms.append(torch.stack([gradient.norm() for gradient in gradients]).norm())
        row = learner.finish()
        print(
            f"tasks {tasks}: {len(norms)} steps, mean norm of the gradient {torch.stack(norms).mean():.2f}, "
            f"last loss {loss:.2f}, accuracy {100 * row[stage]:.1f} %, {len(learner.strategy.buffer)} records stored"
        )
    matrix = learner.accuracy_matrix

run = remerge.run("strategy=derpp", "scenario=class5", seed=0, epochs=1)  # the same, with files and pictures
print("equal to the run:", (matrix == run.accuracy_matrix).all())
