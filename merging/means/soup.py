"""Greedy soup (Wortsman et al. 2022, Model soups: averaging weights of multiple fine-tuned models, recipe 1)."""

from dataclasses import replace

from cl.values import Count
from merging.choosing import Judge
from merging.fusion import Context, Models, State, WeightFusion, mean_state


class Soup(WeightFusion):
    """The plain mean of those models that do not lower its accuracy, asked from the best model to the worst.

    The accuracy is that over all tasks on `samples_per_task` labelled training samples of each; the paper takes
    held-out ones. With running=true the soup so far counts as often as models are in it.
    """

    uses_weights, needs_all_tasks = False, True

    def __init__(self, samples_per_task: Count = 100):
        self.samples_per_task = samples_per_task

    def __call__(self, models: Models, context: Context) -> State:
        judge, states = Judge(models, context, self.samples_per_task), models.states
        counts = [1.0] * len(states)
        if models.merged:
            counts[0] = models.carried["ingredients"]
        scores = [judge(state) for state in states]
        first, *others = sorted(range(len(states)), key=scores.__getitem__, reverse=True)
        taken, best, soup = [first], scores[first].accuracy, mean(models, [first], counts)
        for number in others:
            tried = mean(models, [*taken, number], counts)
            accuracy = judge(tried).accuracy
            if accuracy >= best:
                taken, best, soup = [*taken, number], accuracy, tried
        models.carried["ingredients"] = sum(counts[number] for number in taken)
        found = {"ingredients": [models.names[number] for number in sorted(taken)], "accuracy": best}
        context.record("soup", lambda: found)
        return soup


def mean(models: Models, numbers: list[int], counts: list[float]) -> State:
    """The mean of the models of these numbers, each as often as it counts."""
    total, states = sum(counts[number] for number in numbers), [models.states[number] for number in numbers]
    return mean_state(replace(models, states=states, weights=[counts[number] / total for number in numbers]), states)
