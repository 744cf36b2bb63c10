"""The parts of the load benches (`hack/bench life`, `burst`, `steady` and the rest).

The control plane and the controller are real processes. So is the market, which is the simulator
with machines in name only (`market.py`); and one process plays the kubelet and all drivers
(`pods.py`).
"""
