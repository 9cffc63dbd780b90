"""Architectures as data (paper.md section 3): the stages, their latents, and the choices the paper leaves open."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

ModelName = Literal["vae", "lvae", "lvae_plus", "biva"]

_Size = Annotated[int, Field(ge=1)]
Shape = tuple[_Size, _Size, _Size]
"""Channels, height, width of one feature map or image."""


class Strict(BaseModel):
    """Unknown keys are errors, and so are numbers that are not finite; values cannot change after loading.

    So are true and false in the place of a number or a text: YAML reads `yes` and `no` so, and pydantic takes them for
    1 and 0.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_value(cls, value: Any, field: ValidationInfo) -> Any:
        annotation = cls.model_fields[str(field.field_name)].annotation
        values = value if isinstance(value, list | tuple) else [value]
        if isinstance(value, dict) and get_origin(annotation) is dict:
            values = [*value.values()]
        if annotation is not bool and any(isinstance(v, bool) for v in values):
            raise ValueError("true and false are nothing to choose here; YAML reads yes, no, on and off as one of them")
        return value


class Stage(Strict):
    """One stage of the hierarchy: `blocks` gated residual blocks and one latent per group."""

    blocks: int = Field(ge=1, description="Gated residual blocks in each deterministic path of the stage.")
    kernel: int = Field(ge=1, description="Kernel size of the blocks' convolutions; odd.")
    stride: Literal[1, 2] = Field(description="Stride of the last block (first block in the generative path).")
    latent: int = Field(ge=1, description="N: units of a dense latent, channels of a convolutional one.")

    @model_validator(mode="after")
    def _odd_kernel(self) -> Stage:
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel must be odd, got {self.kernel}")
        return self


class Dropout(Strict):
    """Dropout rates between the two convolutions of a gated block."""

    inference: float = Field(ge=0, lt=1, description="Rate in the two inference paths.")
    generative: float = Field(ge=0, lt=1, description="Rate in the generative path and the top-down merge.")


class Architecture(Strict):
    """Everything that VAE, LVAE, LVAE+ and BIVA of one size share; `Stage` 1 is next to the data."""

    description: str = Field(description="One line for people.")
    input_shape: Annotated[Shape, Field(description="Channels, height, width of an image.")]
    likelihood: Literal["bernoulli", "mixture_of_logistics"] = Field(description="p(x | z).")
    latents: Literal["dense", "convolutional"] = Field(
        description="dense: vectors, projected back to a feature map; convolutional: maps of the stage's size."
    )
    filters: int = Field(ge=1, description="F: channels of every deterministic feature map.")
    dropout: Dropout = Field(description="Between the two convolutions of a block.")
    reference_code: Literal["tensorflow", "pytorch"] = Field(
        default="tensorflow",
        description="Which of the authors' two codes to follow where their networks differ: in residual connections, "
        "in the first ELU of a block without one, at the top of the inference path and in the kernel of the merge "
        "blocks (see differences.md).",
    )
    log_variance: Literal["softplus", "linear"] = Field(
        default="softplus",
        description="How a latent head reads its log-variance. softplus: of the output, so that no deviation is below "
        "1, as in the paper's models; linear: the output itself, which the authors' PyTorch code can be set to.",
    )
    stages: Annotated[tuple[Stage, ...], Field(min_length=1, description="Bottom (1) to top (L).")]

    @model_validator(mode="after")
    def _can_be_built(self) -> Architecture:
        channels, size, width = self.input_shape
        if size != width:
            raise ValueError(f"input_shape: images must be square, got {size}x{width}")
        if channels not in (1, 3):
            raise ValueError(f"input_shape: images have 1 channel or 3, got {channels}")
        if self.likelihood == "mixture_of_logistics" and channels != 3:
            raise ValueError(f"likelihood: mixture_of_logistics needs 3 channels, but input_shape has {channels}")
        for number, stage in enumerate(self.stages):
            if size % stage.stride:
                raise ValueError(f"stages.{number}.stride: a map of odd size {size} cannot be halved")
            size //= stage.stride
        return self

    @property
    def stage_shapes(self) -> tuple[Shape, ...]:
        """(F, H_i, W_i) of the deterministic output of every stage, bottom to top."""
        size, shapes = self.input_shape[1], []
        for stage in self.stages:
            size //= stage.stride
            shapes.append((self.filters, size, size))
        return tuple(shapes)

    @property
    def latent_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shape of one latent group of every stage, bottom to top: (N,) if dense, (N, H_i, W_i) if convolutional."""
        if self.latents == "dense":
            return tuple((stage.latent,) for stage in self.stages)
        return tuple((stage.latent, *shape[1:]) for stage, shape in zip(self.stages, self.stage_shapes, strict=True))
