"""What FedInverse uses of Flower beyond its public interface (``flwr.app``, ``flwr.clientapp``, ``flwr.serverapp``).

It may move with any version: this is the one place that knows where it lies, and what the versions differ in. Every
name is imported when it is asked for: ``from fedinverse.flower_compat import ErrorCode``.
"""

from importlib import import_module
from importlib.metadata import version
from typing import Any

_SECAGG = "flwr.common.secure_aggregation.secaggplus_constants"
_HOMES: dict[str, tuple[str, str]] = {
    "Code": ("flwr.common", "Code"),
    "ErrorCode": ("flwr.common.constant", "ErrorCode"),
    "FitIns": ("flwr.common", "FitIns"),
    "FitRes": ("flwr.common", "FitRes"),
    "FlowerRun": ("flwr.supercore.run", "Run"),
    "MAIN_CONFIGS_RECORD": ("flwr.server.workflow.constant", "MAIN_CONFIGS_RECORD"),
    "MAIN_PARAMS_RECORD": ("flwr.server.workflow.constant", "MAIN_PARAMS_RECORD"),
    "NodeInfo": ("flwr.proto.node_pb2", "NodeInfo"),
    "Parameters": ("flwr.common", "Parameters"),
    "RECORD_KEY_CONFIGS": (_SECAGG, "RECORD_KEY_CONFIGS"),
    "SecAggKey": (_SECAGG, "Key"),
    "SecAggPlusWorkflow": ("flwr.server.workflow", "SecAggPlusWorkflow"),
    "Status": ("flwr.common", "Status"),
    "TaskIdentity": ("flwr.supercore.task_identity", "TaskIdentity"),
    "WorkflowKey": ("flwr.server.workflow.constant", "Key"),
    "WorkflowState": ("flwr.server.workflow.secure_aggregation.secaggplus_workflow", "WorkflowState"),
    "fitres_to_recorddict": ("flwr.compat.common.recorddict_compat", "fitres_to_recorddict"),
    "ndarrays_to_parameters": ("flwr.common", "ndarrays_to_parameters"),
    "parameters_to_ndarrays": ("flwr.common", "parameters_to_ndarrays"),
    # It warns that it will go. ``flwr run`` is no substitute: it runs apps as they are, and nothing can stand between.
    "run_simulation": ("flwr.simulation", "run_simulation"),
    "secaggplus_mod": ("flwr.client.mod.secure_aggregation.secaggplus_mod", "secaggplus_mod"),
}


def __getattr__(name: str) -> Any:
    """Return what Flower calls by another name, in the module where the installed version has it."""
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    module, attribute = _HOMES[name]
    return getattr(import_module(module), attribute)


def one_port() -> bool:
    """Return whether the installed Flower serves SuperNodes on the control API's port: from 1.40 on, over HTTP."""
    major, minor, *_ = version("flwr").split(".")
    return (int(major), int(minor)) >= (1, 40)
