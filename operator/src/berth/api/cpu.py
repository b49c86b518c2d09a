"""``spec.cpu``: how many processors the guest has, and which. Part of virtualmachine.py's VirtualMachine."""

from __future__ import annotations

from typing import Annotated, ClassVar, Final

from pydantic import Field

from berth.api.base import Model, NextBoot, Rule

BASELINE: Final = "Baseline"
HOST: Final = "Host"
FeatureName = Annotated[str, Field(max_length=64, pattern=r"^[a-z0-9][a-z0-9._-]*$")]


class Cpu(Model):
    """The machine's processors."""

    count: Annotated[int, NextBoot] = Field(1, ge=1, le=255, description="Number of virtual CPUs the guest sees.")
    request: Annotated[str | None, NextBoot] = Field(
        None,
        max_length=12,
        pattern=r"^([1-9][0-9]*m|[0-9]+(\.[0-9]{1,3})?)$",
        description='CPU the scheduler reserves on the node, as in a pod ("500m", "2"). Default: 100m per virtual CPU.',
    )
    model: Annotated[str, NextBoot] = Field(
        BASELINE,
        max_length=64,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="Baseline: what all nodes with CPUs of one vendor have in common, so that it can move between them."
        " Host: all of its node's CPU; it then moves to equal nodes only. Or a model that libvirt knows by name, for"
        ' example "Haswell-noTSX"; it then runs on nodes that can give it.',
    )
    require_features: Annotated[list[FeatureName], NextBoot] = Field(
        default_factory=list,
        max_length=64,
        description='Features it has beside those of the model, by libvirt\'s names, for example "avx512f".',
    )
    disable_features: Annotated[list[FeatureName], NextBoot] = Field(
        default_factory=list, max_length=64, description="Features of the model that the guest is not to see."
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "with model Host, no features can be required or disabled: the guest has those of its node",
            "!has(self.model) || self.model != 'Host'"
            " || ((!has(self.requireFeatures) || size(self.requireFeatures) == 0)"
            " && (!has(self.disableFeatures) || size(self.disableFeatures) == 0))",
            lambda cpu: cpu.model != HOST or not (cpu.require_features or cpu.disable_features),
            field="model",
            given_cel="' ' + self.model",
            given=lambda cpu: f" {cpu.model}",
        ),
        Rule(
            "a feature cannot be required and disabled at once",
            "!has(self.requireFeatures) || !has(self.disableFeatures)"
            " || self.requireFeatures.all(f, !(f in self.disableFeatures))",
            lambda cpu: not {*cpu.require_features} & {*cpu.disable_features},
            field="requireFeatures",
            given=lambda cpu: "".join(f" {name}" for name in sorted({*cpu.require_features} & {*cpu.disable_features})),
            given_cel="' ' + self.requireFeatures.filter(f, f in self.disableFeatures)[0]",
        ),
    )
