"""The training section of an experiment set (paper.md section 4)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from biva.config.base import Precision, Protocol, Strict


class Training(Strict):
    """Training by paper.md section 4."""

    protocol: Protocol = Field(
        description="paper: train on train+valid, select the best evaluation on test, as the authors did. "
        "clean: train on train, select on valid; test is touched once."
    )
    batch_size: int = Field(ge=1, description="Images per update.")
    max_updates: int = Field(ge=1, description="Training ends here at the latest.")
    minutes: float | None = Field(
        default=None,
        gt=0,
        le=1e6,
        description="Training ends after so many, over all attempts. The learning rate then follows the clock: it "
        "rises for the first 2% and falls to 0 in the last 30%. Does not repeat bit for bit. null: no limit.",
    )
    evaluate_every: int = Field(ge=1, description="Updates between two evaluations on the selection split.")
    selection_images: int | None = Field(
        default=None,
        ge=1,
        description="A random draw of so many images of the selection split, the same for all runs; null: all.",
    )
    patience: int | None = Field(
        default=None, ge=1, description="Evaluations without a new best after which training stops; null: never."
    )
    learning_rate: float = Field(default=2e-3, gt=0, le=1, description="Adamax, first update.")
    learning_rate_decay: float = Field(default=0.999999, gt=0, le=1, description="Factor per update.")
    learning_rate_minimum: float = Field(
        default=1e-4, ge=0, description="It does not decay below; at most learning_rate."
    )
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = Field(
        default=(0.9, 0.999), description="Adamax."
    )
    ema_decay: float = Field(default=0.9995, ge=0, lt=1, description="Exponential moving average of the weights.")
    free_bits: float = Field(default=2.0, ge=0, le=1e6, description="Nats per latent group and example; training only.")
    free_bits_updates: int | None = Field(
        default=None, ge=1, description="Updates over which the free bits fall linearly to 0; null: they do not fall."
    )
    kl_warm_up: int | None = Field(
        default=None,
        ge=1,
        description="Updates over which the weight of the KL rises linearly from 0 to 1 (Sønderby et al., 2016); "
        "null: it is always 1.",
    )
    largest_gradient_norm: float | None = Field(
        default=None, gt=0, description="A batch with a larger gradient norm is skipped (Child, 2021); null: none is."
    )
    precision: Precision = Field(
        default="fp32",
        description="Of convolutions and matrix products; latents, likelihood and KL are float32. tf32: NVIDIA GPUs.",
    )
    accumulate: int = Field(
        default=1, ge=1, description="Pieces of equal size that a batch goes through in, to save memory: one update."
    )
    compiled: bool = Field(
        default=False,
        description="Compile the model (torch.compile): faster, with other last digits. On a CPU it needs a C++ "
        "compiler.",
    )
    checkpoint_seconds: float = Field(default=60, ge=0, description="A kill loses at most this much training.")
    max_skipped_updates: int = Field(
        default=10,
        ge=1,
        description="A batch whose loss or gradient is not finite is skipped; after so many in a row training stops.",
    )

    @model_validator(mode="after")
    def _pieces_are_equal(self) -> Training:
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size must be a multiple of accumulate, got {self.batch_size} and {self.accumulate}"
            )
        return self

    @model_validator(mode="after")
    def _one_schedule(self) -> Training:
        names = ("learning_rate_decay", "learning_rate_minimum")
        unused = [name for name in names if getattr(self, name) != type(self).model_fields[name].default]
        if self.minutes is not None and unused:
            raise ValueError(f"with minutes the learning rate falls by the clock: leave out {' and '.join(unused)}")
        if self.minutes is None and self.learning_rate_minimum > self.learning_rate:
            raise ValueError(
                f"learning_rate_minimum must be at most learning_rate, got {self.learning_rate_minimum} and "
                f"{self.learning_rate}"
            )
        return self
