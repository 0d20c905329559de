"""Machines as clouds list them become facts; those that name a backend are paid by the hour."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fungible.contract.events import LeaseEvent, Record
from fungible.contract.streams import InfraFact, RejectFact
from fungible.errors import InputError
from fungible.ingest.infra import take_infra
from fungible.ingest.machines import accelerators_of, reader_of
from support.intakes import taken

S = 1_000_000_000
OBSERVED = 1_790_000_000 * S
EC2: dict[str, Any] = {
    "Reservations": [
        {
            "Instances": [
                {
                    "InstanceId": "i-1",
                    "InstanceType": "trn2.48xlarge",
                    "PrivateIpAddress": "10.0.0.7",
                    "LaunchTime": "2026-09-01T00:00:00+00:00",
                    "State": {"Name": "running"},
                    "Placement": {"AvailabilityZone": "us-east-2b"},
                    "InstanceLifecycle": "spot",
                    "Tags": [{"Key": "fungible.dev/backend", "Value": "trainium"}],
                },
                {
                    "InstanceId": "i-2",
                    "InstanceType": "p5.48xlarge",
                    "LaunchTime": "2026-09-01T00:00:00Z",
                    "State": {"Name": "terminated"},
                    "StateTransitionReason": "User initiated (2026-09-02 00:00:00 GMT)",
                    "Tags": [{"Key": "fungible.dev/backend", "Value": "gpus"}],
                },
            ]
        }
    ]
}
KUBERNETES: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "List",
    "items": [
        {
            "kind": "Node",
            "metadata": {
                "name": "node-a",
                "creationTimestamp": "2026-09-01T00:00:00Z",
                "labels": {
                    "nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3",
                    "topology.kubernetes.io/region": "eu-west-1",
                    "karpenter.sh/capacity-type": "reserved",
                },
            },
            "spec": {"providerID": "aws:///eu-west-1a/i-9"},
            "status": {
                "capacity": {"nvidia.com/gpu": "8", "cpu": "192"},
                "addresses": [{"type": "InternalIP", "address": "10.1.0.4"}],
            },
        },
        {
            "kind": "Pod",
            "metadata": {
                "name": "vllm-0",
                "namespace": "serving",
                "annotations": {"fungible.dev/backend": "h100", "note": "x"},
            },
            "spec": {
                "nodeName": "node-a",
                "containers": [{"resources": {"limits": {"nvidia.com/gpu": "4"}}}],
            },
            "status": {"podIP": "10.1.3.9", "startTime": "2026-09-02T08:00:00Z"},
        },
        {"kind": "Service", "metadata": {"name": "passed-over"}},
    ],
}
GCE = [
    {
        "id": "77",
        "name": "tpu-1",
        "machineType": "https://compute/zones/us-west1-c/machineTypes/ct6e-standard-8t",
        "zone": "https://compute/zones/us-west1-c",
        "networkInterfaces": [{"networkIP": "10.2.0.2", "accessConfigs": [{"natIP": "1.2.3.4"}]}],
        "labels": {"fungible-backend": "tpu"},
        "creationTimestamp": "2026-09-01T00:00:00.000-07:00",
        "status": "RUNNING",
    }
]
AZURE = [
    {
        "vmId": "vm-1",
        "hardwareProfile": {"vmSize": "Standard_ND96isr_MI300X_v5"},
        "location": "westeurope",
        "privateIps": "10.3.0.4, 10.3.0.5",
        "tags": {"fungible-backend": "amd"},
        "timeCreated": "2026-09-01T00:00:00Z",
    }
]


def read(root: Path, body: object) -> tuple[list[Record], list[RejectFact]]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return taken(root, "infra", lambda intake: take_infra(intake, data, observed_ns=OBSERVED))


def facts_of(records: list[Record]) -> list[InfraFact]:
    return [one for one in records if isinstance(one, InfraFact)]


def test_instances_of_ec2_with_what_they_run_on_and_how_long(tmp_path: Path) -> None:
    records, rejects = read(tmp_path, EC2)
    first, second = facts_of(records)
    assert not rejects
    assert (first.backend, first.accelerator, first.accelerators) == (
        "trainium",
        "aws-trainium2",
        16,
    )
    assert (first.region, first.capacity, first.addresses) == ("us-east-2", "spot", ["10.0.0.7"])
    leases = [one for one in records if isinstance(one, LeaseEvent)]
    assert [(one.backend, one.ended) for one in leases] == [("trainium", False), ("gpus", True)]
    assert leases[0].seen_ns == OBSERVED
    assert leases[1].seen_ns - leases[1].started_ns == 86_400 * S
    assert second.ended_ns == leases[1].seen_ns


def test_a_machine_is_the_same_lease_however_often_it_is_listed(tmp_path: Path) -> None:
    (first, *_), _ = read(tmp_path / "1", EC2)
    records, _ = read(tmp_path / "2", EC2)
    assert records[0] == first
    ids = {one.lease_id for one in records if isinstance(one, LeaseEvent)}
    assert len(ids) == 2


def test_nodes_and_pods_of_kubernetes_know_each_other(tmp_path: Path) -> None:
    records, rejects = read(tmp_path, KUBERNETES)
    node, pod = facts_of(records)
    assert not rejects
    assert len(records) == 2  # no lease: the node names no backend, the pod runs on it
    assert (node.accelerator, node.accelerators, node.parent) == ("nvidia-h100", 8, "i-9")
    assert (node.region, node.capacity) == ("eu-west-1", "reserved")
    assert (pod.resource, pod.parent, pod.backend) == ("serving/vllm-0", "node-a", "h100")
    assert (pod.accelerators, pod.addresses) == (4, ["10.1.3.9"])


def test_machines_of_gce_and_azure(tmp_path: Path) -> None:
    (tpu, *_), _ = read(tmp_path / "g", GCE)
    (amd, *_), _ = read(tmp_path / "a", AZURE)
    assert isinstance(tpu, InfraFact)
    assert isinstance(amd, InfraFact)
    assert (tpu.accelerator, tpu.accelerators, tpu.region) == ("google-tpu-v6e", 8, "us-west1")
    assert tpu.addresses == ["tpu-1", "10.2.0.2", "1.2.3.4"]
    assert (amd.accelerator, amd.accelerators) == ("amd-mi300x", 8)
    assert amd.addresses == ["10.3.0.4", "10.3.0.5"]


def test_a_table_of_deployments(tmp_path: Path) -> None:
    table = (
        b"resource,kind,provider,backend,accelerator,addresses,observed_at\n"
        b"maia-eu,deployment,azure,maia,microsoft-maia-200,a.example b.example:443,2026-09-03\n"
        b",deployment,azure,maia,,,\n"
        b"x,castle,azure,maia,,,\n"
        b"y,instance,azure,maia,nvidia-h1000,,\n"
        b"z,instance,azure,maia,,,yesterday\n"
    )
    (fact,), rejects = read(tmp_path, table)
    assert isinstance(fact, InfraFact)
    assert (fact.backend, fact.accelerator) == ("maia", "microsoft-maia-200")
    assert fact.addresses == ["a.example", "b.example:443"]
    assert [one.place for one in rejects] == ["line 3", "line 4", "line 5", "line 6"]
    assert "no name" in rejects[0].reason
    assert "unknown accelerator" in rejects[2].reason


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"a": 1}', b"\xff\xfe", b"name\nx\n", b'["x"]']
)
def test_a_file_of_another_form_is_refused(tmp_path: Path, body: bytes) -> None:
    with pytest.raises(InputError):
        read(tmp_path, body)


def test_one_malformed_machine_costs_its_own_row_only(tmp_path: Path) -> None:
    good = EC2["Reservations"][0]["Instances"][0]
    bad: list[dict[str, Any]] = [
        {**good, "LaunchTime": "soon"},
        {**good, "Tags": "none"},
        {**good, "State": []},
        {**good, "InstanceId": ""},
        {**good, "Placement": "here"},
    ]
    records, rejects = read(tmp_path, {"Reservations": [{"Instances": [*bad, good]}]})
    # An empty list says as much as a state that is not stated.
    assert len(facts_of(records)) == 2
    assert len(rejects) == 4


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@settings(max_examples=60)
@given(st.dictionaries(st.sampled_from(list(EC2["Reservations"][0]["Instances"][0])), json_values))
def test_whatever_an_instance_says_it_is_taken_or_rejected(
    tmp_path_factory: pytest.TempPathFactory, fields: dict[str, Any]
) -> None:
    root = tmp_path_factory.mktemp("infra")
    records, rejects = read(root, {"Reservations": [{"Instances": [fields]}]})
    assert len(facts_of(records)) + len(rejects) == 1


def test_types_of_machines_are_told_by_their_names() -> None:
    assert accelerators_of("P5.48xlarge") == ("nvidia-h100", 8)
    assert accelerators_of("m7i.large") == ("", 0)
    assert reader_of(GCE)[1] == {"items": GCE}
