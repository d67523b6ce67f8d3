"""Preferences that depend on who is asked: the reward of one person among many (Variational Preference Learning,
2024)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rl_probes.rewards.preferences import fragment_return, most_uncertain, preference_loss
from rl_probes.rewards.set_embedding import SetEmbedding
from rl_probes.rewards.slot_head import SlotHead
from rl_probes.rewards.transition import RewardOutput, SlotTransition, valid_slots


class LatentPreferenceReward(SlotHead):
    """r(s, z) with z of the person: q(z | labelled pairs) = N(mean, variance), prior N(0, 1), E numbers.

    A single Bradley-Terry reward averages people who disagree; with z, a few labelled pairs tell whose reward it is
    (`infer`), and it is predicted for the z that was inferred last, 0 before. Fragments are as in `PreferenceReward`.

    The encoder of pairs sees (2 label - 1) * (first - second), the fragments as mean embeddings of their states:
    swapping a pair with its label changes nothing, and neither does the order of the pairs, over which it takes the
    mean. That form of the encoder is ours.

    Raises:
        ValueError: a latent without a dimension.
    """

    kind = "reward"
    state_dependence = "state"
    bounds = (float("-inf"), float("inf"))

    def __init__(self, dim: int, latent: int = 8, width: int = 128) -> None:
        super().__init__(dim=dim, latent=latent, width=width)
        if latent < 1:
            raise ValueError(f"the latent of a person has at least one dimension, got {latent}.")
        self.of_state = SetEmbedding(dim, width)
        self.rho = nn.Sequential(nn.Linear(2 * width + latent, width), nn.ReLU(), nn.Linear(width, 1))
        self.of_fragment = SetEmbedding(dim, width)
        self.of_pair = nn.Sequential(nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.posterior = nn.Linear(width, 2 * latent)
        self.person: Tensor
        self.register_buffer("person", torch.zeros(latent))

    def predict(self, transition: SlotTransition) -> RewardOutput:
        state = self._embedded(self.of_state, transition.slots, valid_slots(transition))
        return RewardOutput(reward=self._reward(state, self.person))

    def encode(
        self, first: Tensor, first_valid: Tensor, second: Tensor, second_valid: Tensor, label: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Pairs of fragments (n T K D) with masks (n T K) and labels (n) of one person -> mean and log variance (E).

        Raises:
            ValueError: no pair.
        """
        if not len(label):
            raise ValueError("a person is known by at least one labelled pair, got none.")
        one, two = (
            self._embedded(self.of_fragment, slots.flatten(0, 1), valid.flatten(0, 1)).unflatten(0, valid.shape[:2])
            for slots, valid in ((first, first_valid), (second, second_valid))
        )
        preferred = (2 * label - 1)[:, None] * (one.mean(1) - two.mean(1))  # (n 2*width)
        mean, log_variance = self.posterior(self.of_pair(preferred).mean(0)).chunk(2)
        return mean, log_variance

    def differences(
        self, z: Tensor, first: Tensor, first_valid: Tensor, second: Tensor, second_valid: Tensor, gamma: float = 1.0
    ) -> Tensor:
        """R_1 - R_2 (S n) for each z (S E) of S people.

        Raises:
            ValueError: fragments of different lengths.
        """
        if first.shape != second.shape:
            raise ValueError(f"fragments must be alike, got {tuple(first.shape)} and {tuple(second.shape)}.")
        returns = []
        for slots, valid in ((first, first_valid), (second, second_valid)):
            present = valid.flatten(0, 1)
            state = self._embedded(self.of_state, slots.flatten(0, 1), present)
            rewards = self._reward(state, z).masked_fill(~present.any(1), self.neutral)  # (S n*T)
            returns.append(fragment_return(rewards.unflatten(1, valid.shape[:2]), gamma))
        return returns[0] - returns[1]

    def loss(
        self,
        first: Tensor,
        first_valid: Tensor,
        second: Tensor,
        second_valid: Tensor,
        label: Tensor,
        beta: float = 1e-2,
        noise: float = 0.0,
    ) -> Tensor:
        """Cross-entropy of one person's labels (n) under a z drawn from q, plus beta * KL(q | prior). The pairs that
        tell z are those that are scored, as in the source; the value of beta is ours."""
        mean, log_variance = self.encode(first, first_valid, second, second_valid, label)
        z = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        differences = self.differences(z[None], first, first_valid, second, second_valid)[0]
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum()
        return preference_loss(differences, label, noise) + beta * divergence

    @torch.no_grad()
    def infer(self, first: Tensor, first_valid: Tensor, second: Tensor, second_valid: Tensor, label: Tensor) -> None:
        """From now on predict the reward of the person who gave these labels."""
        self.person.copy_(self.encode(first, first_valid, second, second_valid, label)[0])

    @torch.no_grad()
    def ask(
        self, first: Tensor, first_valid: Tensor, second: Tensor, second_valid: Tensor, count: int, people: int = 32
    ) -> Tensor:
        """Indices (count) of the pairs about which `people` drawn from the prior disagree most: what to ask someone of
        whom nothing is known."""
        z = torch.randn(people, len(self.person), device=self.person.device)
        return most_uncertain(self.differences(z, first, first_valid, second, second_valid), count)

    def _embedded(self, embedding: nn.Module, slots: Tensor, valid: Tensor) -> Tensor:
        """(B K D), (B K) -> (B 2*width)."""
        embedded: Tensor = embedding(self.standardised(slots, valid), valid)
        return embedded

    def _reward(self, state: Tensor, z: Tensor) -> Tensor:
        """State (B W) and z (E) -> (B), or z (S E) -> (S B)."""
        people = z.expand(1, -1) if z.ndim == 1 else z
        size = (len(people), len(state), -1)
        pairs = torch.cat([state.expand(size), people[:, None].expand(size)], 2)
        rewards: Tensor = self.rho(pairs).squeeze(2)
        return rewards[0] if z.ndim == 1 else rewards
