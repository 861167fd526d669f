"""The bandit of SetPO's Figure 1 (arXiv 2602.01062): which of several rewarded modes does a policy keep?

Twelve modes, of which the first four give reward 1 and the others 0. Each has a fixed random embedding. A softmax
policy over the modes, uniform at first, is trained on groups of sampled rollouts, one policy-gradient step a group.
There is one prompt, so nothing but the advantage decides what happens to the rewarded modes.

The paper leaves open the optimizer, the learning rate, the steps and the group size; `Settings` has our choice.

Shapes, besides those of `verl_setpo.set_rl`: M modes, R rewarded modes, T recorded steps. P counts seeds here, which
are trained side by side as the prompts of a batch.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from verl_setpo.set_rl import cosine_kernel, grpo_div, marginal_set_advantage, set_loo

MODES = 12
REWARDED = 4
EMBEDDING_DIMENSION = 50
LEARNING_RATES = {"sgd": 1.0, "adam": 0.1}
RECORDS = 50  # recorded steps after the start, evenly spaced

Advantage = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From rewards_PN, sampled modes_PN (int64) and embeddings_PND to advantage_PN."""


@dataclass(frozen=True)
class Settings:
    """One run of the bandit.

    Args:
        seeds: independent repetitions; seed p is the same whatever their number.
        steps: policy-gradient steps, one group each.
        rollouts: N, rollouts in a group; at least 3, where SetPO's credit begins.
        optimizer: "sgd", or "adam" with torch's defaults.
        learning_rate: None: that of `LEARNING_RATES`.
    """

    seeds: int = 20
    steps: int = 1000
    rollouts: int = 8
    optimizer: str = "sgd"
    learning_rate: float | None = None

    @property
    def chosen_learning_rate(self) -> float:
        return LEARNING_RATES[self.optimizer] if self.learning_rate is None else self.learning_rate


@dataclass(frozen=True)
class Trace:
    """The policies of all seeds over training. logits_TPM is float64; steps_T begins with 0 and ends with the last."""

    steps_T: Sequence[int]
    logits_TPM: Tensor

    @property
    def probability_TPM(self) -> Tensor:
        return self.logits_TPM.softmax(-1)

    @property
    def mean_reward_TP(self) -> Tensor:
        """The probability of the rewarded modes, which is the expected reward of a rollout."""
        return self.probability_TPM[..., :REWARDED].sum(-1)

    @property
    def effective_modes_TP(self) -> Tensor:
        """exp of the entropy (nats) of the policy given that the mode is rewarded: 1 to 4, 4 where all are alike."""
        # A softmax over the rewarded logits is that conditional policy, also where their probabilities underflow.
        log_TPR = self.logits_TPM[..., :REWARDED].log_softmax(-1)
        return torch.special.entr(log_TPR.exp()).sum(-1).exp()

    def modes_above_TP(self, threshold: float) -> Tensor:
        """Number of rewarded modes with more than `threshold` of the whole policy's probability."""
        return (self.probability_TPM[..., :REWARDED] > threshold).sum(-1)


def grpo(rewards_PN: Tensor) -> Tensor:
    """GRPO's advantage as in verl: (r - mean) / (std + 1e-6) over each group, std unbiased."""
    mean_P1, std_P1 = rewards_PN.mean(1, keepdim=True), rewards_PN.std(1, keepdim=True)
    return (rewards_PN - mean_P1) / (std_P1 + 1e-6)


def bandit_methods(coefs: Sequence[float], div_coef: float, set_size: int) -> dict[str, Advantage]:
    """The compared methods by the name that the table gives them; SetPO once for each of `coefs`.

    Two rollouts share a cluster if they are of the same mode. SetPO sees the cosine of the modes' embeddings instead.
    """

    def setpo(coef: float) -> Advantage:
        return lambda rewards_PN, _, embeddings_PND: grpo(rewards_PN) + coef * set_loo(cosine_kernel(embeddings_PND))

    return {
        "GRPO": lambda rewards_PN, modes_PN, embeddings_PND: grpo(rewards_PN),
        **{f"SetPO, coef {coef:g}": setpo(coef) for coef in coefs},
        "Poly-EPO": lambda rewards_PN, modes_PN, _: marginal_set_advantage(rewards_PN, modes_PN, set_size=set_size),
        f"GRPO+DIV, coef {div_coef:g}": lambda rewards_PN, modes_PN, _: grpo_div(rewards_PN, modes_PN, div_coef),
    }


@contextmanager
def _one_thread() -> Iterator[None]:
    """On tensors as small as these more threads gain nothing, and on a busy machine they wait for each other: 30 s
    instead of 1 s were measured."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@_one_thread()
def train(advantage: Advantage, settings: Settings) -> Trace:
    """Train one policy a seed. The same seed meets the same embeddings and random numbers under every method."""
    # A generator a seed, so that seed 3 is the same among 5 seeds as among 100.
    generators = [torch.Generator().manual_seed(seed) for seed in range(settings.seeds)]
    embeddings_PMD = torch.stack(
        [torch.randn(MODES, EMBEDDING_DIMENSION, generator=generator, dtype=torch.float64) for generator in generators]
    )
    seed_P1 = torch.arange(settings.seeds)[:, None]
    logits_PM = torch.zeros(settings.seeds, MODES, dtype=torch.float64)
    optimizer = _optimizer(logits_PM, settings)
    recorded = {round(settings.steps * i / RECORDS) for i in range(RECORDS + 1)}
    logits = [logits_PM.clone()]
    for step in range(1, settings.steps + 1):
        probability_PM = logits_PM.softmax(1)
        modes_PN = sample_modes(probability_PM, settings.rollouts, generators)
        rewards_PN = (modes_PN < REWARDED).to(torch.float64)
        advantage_PN = advantage(rewards_PN, modes_PN, embeddings_PMD[seed_P1, modes_PN])
        logits_PM.grad = policy_gradient(probability_PM, modes_PN, advantage_PN)
        optimizer.step()
        if step in recorded:
            logits.append(logits_PM.clone())
    return Trace(sorted(recorded), torch.stack(logits))


def sample_modes(probability_PM: Tensor, rollouts: int, generators: Sequence[torch.Generator]) -> Tensor:
    """modes_PN, int64: drawn from the policy of each seed by that seed's generator."""
    uniform_PN = torch.stack(
        [torch.rand(rollouts, generator=generator, dtype=torch.float64) for generator in generators]
    )
    # right: a mode of probability 0 is never drawn. The clamp is for a sum that rounding leaves below 1.
    modes_PN = torch.searchsorted(probability_PM.cumsum(1), uniform_PN, right=True)
    return modes_PN.clamp(max=probability_PM.shape[1] - 1)


def policy_gradient(probability_PM: Tensor, modes_PN: Tensor, advantage_PN: Tensor) -> Tensor:
    """Gradient in the logits of the mean over rollouts of A_i log pi(mode_i), to be ascended.

    d log pi(a) / d logit_m is [a = m] - pi_m. On-policy and with one step a group, every clip and ratio is idle.
    """
    per_mode_PM = torch.zeros_like(probability_PM).scatter_add(1, modes_PN, advantage_PN)
    return (per_mode_PM - probability_PM * advantage_PN.sum(1, keepdim=True)) / advantage_PN.shape[1]


def _optimizer(logits_PM: Tensor, settings: Settings) -> torch.optim.Optimizer:
    """Both work element by element, so that seeds do not meet."""
    kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[settings.optimizer]
    return kind([logits_PM], lr=settings.chosen_learning_rate, maximize=True)
