"""Nodes with CPUs that there are, as libvirt tells of them: for tests of what unlike nodes have in common."""

from __future__ import annotations

from dataclasses import replace

from berth.api.hardware import HostCpu
from berth.api.order import Emulation, NodeFacts
from berth.plan import hosts
from berth.plan.hosts import Host
from berth.plan.world import Cluster

_OLDEST = (
    "apic clflush cmov cx16 cx8 fpu fxsr lm mca mce mmx msr mtrr nx pae pat pge pni pse pse36 sep sse sse2 syscall"
)
_PENRYN = f"{_OLDEST} lahf_lm sse4.1 ssse3 tsc vme hypervisor x2apic"
_NEHALEM = f"{_PENRYN} popcnt sse4.2"
_HASWELL = (
    f"{_NEHALEM} abm aes arat avx avx2 bmi1 bmi2 erms f16c fma fsgsbase invpcid movbe pcid pclmuldq pdpe1gb"
    " rdrand rdtscp smep spec-ctrl ssbd tsc-deadline tsc_adjust xsave xsaveopt vmx vmx-ept"
)
_SKYLAKE = (
    f"{_HASWELL} 3dnowprefetch adx avx512bw avx512cd avx512dq avx512f avx512vl clflushopt clwb mpx pku rdseed smap"
    " xgetbv1 xsavec xsaves"
)
_ROME = (
    f"{_NEHALEM} 3dnowprefetch abm adx aes arat avx avx2 bmi1 bmi2 clflushopt clwb clzero cr8legacy f16c fma fsgsbase"
    " fxsr_opt ibpb misalignsse mmxext movbe npt nrip-save osvw pclmuldq pdpe1gb perfctr_core rdrand rdseed rdtscp"
    " sha-ni smap smep sse4a svm umip wbnoinvd xgetbv1 xsave xsavec xsaveopt"
)
_INTEL = ("qemu64", "Conroe", "Penryn", "Nehalem", "Westmere", "SandyBridge", "IvyBridge", "Haswell-noTSX")
_AMD = ("qemu64", "Opteron_G1", "Opteron_G2", "Opteron_G3", "EPYC", "EPYC-Rome")
TYPES = ("pc-q35-7.2", "pc-q35-8.2", "pc-q35-9.2", "pc-q35-10.0")
EMULATED = HostCpu(accelerator="tcg", features=("avx", "avx2"), models=("qemu64", "Nehalem", "Westmere"))


def cpu(vendor: str, model: str, features: str, models: tuple[str, ...]) -> HostCpu:
    return HostCpu(
        accelerator="kvm", vendor=vendor, model=model, features=tuple(sorted(features.split())), models=models
    )


PENRYN = cpu("Intel", "Penryn", _PENRYN, _INTEL[:3])
NEHALEM = cpu("Intel", "Nehalem", _NEHALEM, _INTEL[:4])
HASWELL = cpu("Intel", "Haswell-noTSX", _HASWELL, _INTEL)
SKYLAKE = cpu(
    "Intel", "Skylake-Server-noTSX-IBRS", _SKYLAKE, (*_INTEL, "Skylake-Client-noTSX-IBRS", "Skylake-Server-noTSX-IBRS")
)
ROME = cpu("AMD", "EPYC-Rome", _ROME, _AMD)


def node(name: str, host_cpu: HostCpu | None = None, qemu: str = "10.0.0", types: tuple[str, ...] = TYPES) -> Host:
    """With KVM when it has a CPU of its own."""
    cpus = (EMULATED,) if host_cpu is None else (host_cpu, EMULATED)
    return hosts.read(
        NodeFacts(
            node=name,
            agent_version="1",
            kvm_usable=host_cpu is not None,
            qemu_version=qemu,
            machine_types=types,
            host_cpus=cpus,
        )
    )


def cluster(*nodes: Host, emulation: Emulation = Emulation.NEVER, **more: object) -> Cluster:
    made = Cluster(emulation=emulation, nodes=tuple(host.node for host in nodes), hosts=nodes)
    return replace(made, **more)  # type: ignore[arg-type]
