"""Machines, pods and deployments as clouds and clusters list them, one reader per form.

Each reader takes the JSON that the provider's own command prints: EC2's DescribeInstances,
Kubernetes' lists of nodes and pods, GCE's instances, Azure's virtual machines.
"""

import functools
import re
from collections.abc import Callable, Iterator
from importlib import resources
from typing import Any

import msgspec

from fungible.errors import InputError
from fungible.ledger.sheets import moment_ns

# Labels that name the backend; clouds differ in the characters that they allow.
BACKEND_LABELS = ("fungible.dev/backend", "fungible-backend", "fungible_backend")
ACCELERATOR_LABELS = ("fungible.dev/accelerator", "fungible-accelerator")
_K8S_ACCELERATORS = (
    "nvidia.com/gpu.product",
    "amd.com/gpu.product-name",
    "cloud.google.com/gke-accelerator",
    "cloud.google.com/gke-tpu-accelerator",
)
_K8S_COUNTS = ("nvidia.com/gpu", "amd.com/gpu", "google.com/tpu", "aws.amazon.com/neuron")
_EC2_ENDED = re.compile(r"\((\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) (?:GMT|UTC)\)")

Fields = dict[str, Any]
# Where a machine is in the list, what the list says of it, and how that is read.
Listed = tuple[str, Fields, Callable[[Fields], Fields]]
Reader = Callable[[Fields], Iterator[Listed]]


class _Kind(msgspec.Struct, frozen=True):
    pattern: str
    accelerator: str
    count: int


@functools.cache
def _kinds() -> tuple[tuple[re.Pattern[str], _Kind], ...]:
    data = resources.files("fungible.ingest").joinpath("instances.yaml").read_bytes()
    kinds = msgspec.yaml.decode(data, type=list[_Kind])
    return tuple((re.compile(kind.pattern, re.IGNORECASE), kind) for kind in kinds)


def accelerators_of(name: str) -> tuple[str, int]:
    """The accelerator and how many of it a machine type has; empty and 0 when unknown."""
    for pattern, kind in _kinds():
        if pattern.fullmatch(name):
            return kind.accelerator, kind.count
    return "", 0


def read_ec2(document: Fields) -> Iterator[Listed]:
    """`aws ec2 describe-instances`."""
    for at, reservation in enumerate(_list(document, "Reservations")):
        for number, one in enumerate(_list(reservation, "Instances")):
            yield f"Reservations[{at}].Instances[{number}]", one, _ec2


def _ec2(one: Fields) -> Fields:
    tags = {tag.get("Key", ""): tag.get("Value", "") for tag in _list(one, "Tags")}
    state = _map(one, "State").get("Name", "")
    ended = _EC2_ENDED.search(str(one.get("StateTransitionReason", "")))
    zone = str(_map(one, "Placement").get("AvailabilityZone", ""))
    names = ("PrivateIpAddress", "PublicIpAddress", "PrivateDnsName", "PublicDnsName")
    spot = one.get("InstanceLifecycle") == "spot"
    return {
        "provider": "aws",
        "resource": one.get("InstanceId", ""),
        "kind": "instance",
        "instance_type": one.get("InstanceType", ""),
        "zone": zone,
        "region": re.sub(r"[a-z]$", "", zone),
        "capacity": "spot" if spot else "",
        "addresses": [one[name] for name in names if one.get(name)],
        "labels": tags,
        "started_ns": moment(one.get("LaunchTime")),
        "ended_ns": moment(ended[1]) if ended and state in ("terminated", "stopped") else 0,
    }


def read_kubernetes(document: Fields) -> Iterator[Listed]:
    """`kubectl get nodes,pods -A -o json`; items of other kinds are passed over."""
    items = _list(document, "items") if "items" in document else [document]
    for at, item in enumerate(items):
        kind = item.get("kind") or str(document.get("kind", "")).removesuffix("List")
        if kind == "Node":
            yield f"items[{at}]", item, _node
        elif kind == "Pod":
            yield f"items[{at}]", item, _pod


def _node(item: Fields) -> Fields:
    meta, status = _map(item, "metadata"), _map(item, "status")
    labels = _texts(_map(meta, "labels"))
    count = _counts(_map(status, "capacity"))
    product = next((labels[name] for name in _K8S_ACCELERATORS if labels.get(name)), "")
    capacity = labels.get("karpenter.sh/capacity-type") or labels.get(
        "eks.amazonaws.com/capacityType", ""
    )
    return {
        "provider": "kubernetes",
        "resource": meta.get("name", ""),
        "kind": "node",
        "parent": str(_map(item, "spec").get("providerID", "")).rpartition("/")[2],
        "instance_type": labels.get("node.kubernetes.io/instance-type", ""),
        "region": labels.get("topology.kubernetes.io/region", ""),
        "zone": labels.get("topology.kubernetes.io/zone", ""),
        "capacity": capacity.lower().replace("_", "-"),
        "accelerator": accelerators_of(product.lower().replace(" ", "-"))[0],
        "accelerators": count,
        "addresses": [one.get("address", "") for one in _list(status, "addresses")],
        "labels": labels,
        "started_ns": moment(meta.get("creationTimestamp")),
    }


def _pod(item: Fields) -> Fields:
    meta, spec, status = (_map(item, name) for name in ("metadata", "spec", "status"))
    labels = _texts(_map(meta, "labels")) | _backend_of(_texts(_map(meta, "annotations")))
    count = sum(
        _counts(_map(_map(one, "resources"), "limits")) for one in _list(spec, "containers")
    )
    ips = [one.get("ip", "") for one in _list(status, "podIPs")] or [status.get("podIP", "")]
    ended = [
        moment(_map(_map(one, "state"), "terminated").get("finishedAt"))
        for one in _list(status, "containerStatuses")
    ]
    done = status.get("phase") in ("Succeeded", "Failed")
    return {
        "provider": "kubernetes",
        "resource": f"{meta.get('namespace', 'default')}/{meta.get('name', '')}",
        "kind": "pod",
        "parent": spec.get("nodeName", "") or "",
        "accelerators": count,
        "addresses": [ip for ip in ips if ip],
        "labels": labels,
        "started_ns": moment(status.get("startTime") or meta.get("creationTimestamp")),
        "ended_ns": max(ended, default=0) if done else 0,
    }


def read_gce(document: Fields) -> Iterator[Listed]:
    """`gcloud compute instances list --format=json` (under `items`)."""
    for at, one in enumerate(_list(document, "items")):
        yield f"[{at}]", one, _gce


def _gce(one: Fields) -> Fields:
    zone = str(one.get("zone", "")).rpartition("/")[2]
    addresses = [one.get("name", "")]
    for network in _list(one, "networkInterfaces"):
        addresses.append(network.get("networkIP", ""))
        addresses += [each.get("natIP", "") for each in _list(network, "accessConfigs")]
    guests = _list(one, "guestAccelerators")
    kind = str(guests[0].get("acceleratorType", "")).rpartition("/")[2] if guests else ""
    model = str(_map(one, "scheduling").get("provisioningModel", ""))
    stopped = one.get("status") in ("TERMINATED", "STOPPED")
    return {
        "provider": "gcp",
        "resource": str(one.get("id") or one.get("name", "")),
        "kind": "instance",
        "instance_type": str(one.get("machineType", "")).rpartition("/")[2],
        "accelerator": accelerators_of(kind)[0],
        "accelerators": sum(int(each.get("acceleratorCount", 0)) for each in guests),
        "zone": zone,
        "region": zone.rpartition("-")[0],
        "capacity": "spot" if model == "SPOT" else "",
        "addresses": [name for name in addresses if name],
        "labels": _texts(_map(one, "labels")),
        "started_ns": moment(one.get("lastStartTimestamp") or one.get("creationTimestamp")),
        "ended_ns": moment(one.get("lastStopTimestamp")) if stopped else 0,
    }


def read_azure(document: Fields) -> Iterator[Listed]:
    """`az vm list --show-details --output json` (under `items`)."""
    for at, one in enumerate(_list(document, "items")):
        yield f"[{at}]", one, _azure


def _azure(one: Fields) -> Fields:
    addresses = [
        each.strip()
        for name in ("privateIps", "publicIps", "fqdns")
        for each in str(one.get(name) or "").split(",")
    ]
    return {
        "provider": "azure",
        "resource": str(one.get("vmId") or one.get("id", "")),
        "kind": "instance",
        "instance_type": _map(one, "hardwareProfile").get("vmSize", ""),
        "region": one.get("location", ""),
        "zone": " ".join(map(str, one.get("zones") or [])),
        "capacity": "spot" if one.get("priority") == "Spot" else "",
        "addresses": [each for each in addresses if each],
        "labels": _texts(_map(one, "tags")),
        "started_ns": moment(one.get("timeCreated")),
    }


def reader_of(document: object) -> tuple[Reader, Fields]:
    """The reader for a JSON document, and the document as it wants it.

    Raises:
        InputError: It is none of the known forms.
    """
    if isinstance(document, list) and document and isinstance(document[0], dict):
        azure = "hardwareProfile" in document[0]
        return (read_azure if azure else read_gce), {"items": document}
    if isinstance(document, dict):
        if "Reservations" in document:
            return read_ec2, document
        if document.get("kind") == "compute#instanceList":
            return read_gce, document
        if document.get("apiVersion"):
            return read_kubernetes, document
    raise InputError(
        "not a list of machines that we know",
        hint="EC2 describe-instances, kubectl get -o json, gcloud or az lists as JSON, or CSV",
    )


def _backend_of(labels: dict[str, str]) -> dict[str, str]:
    names = (*BACKEND_LABELS, *ACCELERATOR_LABELS)
    return {name: value for name, value in labels.items() if name in names}


def _counts(resources: Fields) -> int:
    return sum(int(resources[name]) for name in _K8S_COUNTS if str(resources.get(name)).isdigit())


def _list(fields: Fields, name: str) -> list[Fields]:
    found = fields.get(name) or []
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise InputError(f"{name} is not a list of objects")
    return found


def _map(fields: Fields, name: str) -> Fields:
    found = fields.get(name) or {}
    if not isinstance(found, dict):
        raise InputError(f"{name} is not an object")
    return found


def _texts(fields: Fields) -> dict[str, str]:
    return {str(name): str(value) for name, value in fields.items()}


def moment(text: object) -> int:
    """A time as these APIs write it, in ns; 0 when there is none.

    Raises:
        InputError: It is not a time.
    """
    if not text:
        return 0
    try:
        return moment_ns(str(text))
    except ValueError as error:
        raise InputError(f"{text!r} is not a time") from error
