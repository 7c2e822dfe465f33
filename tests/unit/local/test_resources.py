"""What a person is told of a file of resources that does not fit: one sentence, with place and remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailarray.contract import settings
from mailarray.contract.mirroring_table import parse
from mailarray.contract.resources.reading import ResourceError
from mailarray.contract.settings import AccessSettings, PlacementWhen, ServerSettings
from mailarray.local.layout import Isolation, Layout
from mailarray.local.render import render
from mailarray.local.resources import Ports, read_resources
from mailarray.local.up import process_specs

CLUSTER = """\
apiVersion: mailarray.io/v1alpha1
kind: MailCluster
metadata: {name: example}
spec:
  domains: [{name: mail.example}]
"""
SERVERS = """\
---
apiVersion: mailarray.io/v1alpha1
kind: MailServer
metadata: {name: mail}
spec: {clusterRef: {name: example}, replicas: 3}
"""
GOOD = CLUSTER + SERVERS


def with_spec(lines: str) -> str:
    return CLUSTER + "".join(f"  {line}\n" for line in lines.splitlines()) + SERVERS


def test_the_example_is_good() -> None:
    file = Path(__file__).parents[3] / "examples" / "local.yaml"
    resources = read_resources(file.read_text(encoding="utf-8"), "local.yaml")
    assert resources.server_names == ("mail-0", "mail-1", "mail-2")
    assert resources.ports == Ports(2525, 2110, 2180, 2200)
    assert resources.notes == ()


def test_the_example_of_placement_is_good() -> None:
    file = Path(__file__).parents[3] / "examples" / "local-placement.yaml"
    resources = read_resources(file.read_text(encoding="utf-8"), "local-placement.yaml")
    assert resources.server_names == ("mail-0", "mail-1", "fast-0", "fast-1", "big-0")
    assert resources.notes == ()
    rendered = render(resources, Layout(Path("/data"))).servers[0].placement
    assert rendered.hand_over_timeout == 2.0, "twice the mirror timeout"
    assert [(rule.name, rule.group) for rule in rendered.rules] == [
        ("large", "big"),
        ("urgent", "fast"),
        ("board", "fast"),
    ]
    large, urgent, board = (rule.when for rule in rendered.rules)
    assert large == PlacementWhen(min_size=1 << 20)
    assert urgent == PlacementWhen(urgency="High")
    assert board == PlacementWhen(recipients=("board@mail.example",), domains=("board.mail.example", "mail.example"))


def placed(rules: str) -> str:
    return with_spec(f"placement: {{rules: [{rules}]}}")


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        ("", "c.yaml: one MailCluster is needed, none found; one machine runs one cluster"),
        (CLUSTER, "c.yaml: there is no MailServer; add one with spec.clusterRef.name: example"),
        (
            GOOD + "---\n" + CLUSTER,
            "c.yaml: one MailCluster is needed, 2 found; one machine runs one cluster",
        ),
        ("a: [", "c.yaml:1:5: not YAML: expected the node content, but found '<stream end>'; correct this line"),
        ("a: \t- b", "c.yaml:1:4: not YAML: found character '\\t' that cannot start any token; correct this line"),
        ("- a\n- b\n", "c.yaml, document 1: must be a mapping with apiVersion and kind, not a list"),
        (
            GOOD.replace("v1alpha1", "v2", 1),
            "c.yaml, MailCluster example: apiVersion is 'mailarray.io/v2'; write mailarray.io/v1alpha1",
        ),
        (
            GOOD.replace("MailServer", "Mailserver"),
            "c.yaml, Mailserver mail: kind is 'Mailserver'; write MailCluster or MailServer",
        ),
        (
            GOOD.replace("MailServer", "MirrorPair"),
            "c.yaml, MirrorPair mail: kind MirrorPair is not read on one machine; remove the document, a ring is used",
        ),
        (
            GOOD.replace("{name: mail}", "{name: Mail_1}"),
            "c.yaml, MailServer Mail_1: metadata.name must be lower-case letters, digits and hyphens, "
            "at most 52 characters",
        ),
        (
            GOOD.replace("metadata: {name: mail}", "metadata: {}"),
            "c.yaml, document 2: metadata.name is missing; add it",
        ),
        (
            with_spec("storage: {copys: 2}"),
            "c.yaml, MailCluster example: spec.storage.copys is not a field; did you mean copies?",
        ),
        (
            with_spec("zebra: 1"),
            "c.yaml, MailCluster example: spec.zebra is not a field; remove it, or use one of "
            "access, accounts, catalog, domains, mx, paused, placement, smtp, storage, tls",
        ),
        (
            with_spec("storage: {copies: two}"),
            "c.yaml, MailCluster example: spec.storage.copies must be a whole number, not a text (two)",
        ),
        (
            with_spec("storage: {copies: true}"),
            "c.yaml, MailCluster example: spec.storage.copies must be a whole number, not true or false (True)",
        ),
        (
            with_spec("storage: {copies: 4}"),
            "c.yaml, MailCluster example: spec.storage.copies is 4, but there are only 3 servers; "
            "lower it, or raise spec.replicas of a MailServer",
        ),
        (
            with_spec("storage: {onMirrorLoss: Wait}"),
            "c.yaml, MailCluster example: spec.storage.onMirrorLoss is 'Wait'; write Defer or Accept",
        ),
        (
            with_spec("storage: {mirrorTimeout: 1}"),
            "c.yaml, MailCluster example: spec.storage.mirrorTimeout is 1; write a duration like 500ms, 60s or 5m",
        ),
        (
            with_spec("smtp: {maxMessageSize: 50MB}"),
            "c.yaml, MailCluster example: spec.smtp.maxMessageSize is '50MB'; write a size like 50Mi or 1Gi",
        ),
        (
            with_spec("smtp: {maxMessageSize: 1Ki}"),
            "c.yaml, MailCluster example: spec.smtp.maxMessageSize must be at least 64Ki (RFC 5321 4.5.3.1.7)",
        ),
        (
            with_spec("smtp: {proxyProtocol: {trustedNetworks: [10.0.0.1/8]}}"),
            "c.yaml, MailCluster example: spec.smtp.proxyProtocol.trustedNetworks[0] is '10.0.0.1/8'; "
            "write a network like 10.0.0.0/8",
        ),
        (
            with_spec("smtp: []"),
            "c.yaml, MailCluster example: spec.smtp must be a mapping, not a list",
        ),
        (
            GOOD.replace("[{name: mail.example}]", "[]"),
            "c.yaml, MailCluster example: spec.domains is empty; name at least one domain, "
            "for example - name: mail.example",
        ),
        (
            GOOD.replace("[{name: mail.example}]", "[{name: a@b}]"),
            "c.yaml, MailCluster example: spec.domains[0].name is 'a@b'; write a domain like mail.example",
        ),
        (
            GOOD.replace("[{name: mail.example}]", "[{name: a.example}, {name: A.example}]"),
            "c.yaml, MailCluster example: spec.domains[1].name A.example is there twice; remove one",
        ),
        (
            GOOD.replace("{name: mail.example}", "{name: mail.example, postmaster: me@else.example}"),
            "c.yaml, MailCluster example: spec.domains[0].postmaster is 'me@else.example'; "
            "write a mailbox in one of the cluster's domains",
        ),
        (
            with_spec("accounts: {database: {}, secretRef: {name: a}}"),
            "c.yaml, MailCluster example: spec.accounts has a secretRef and a database; leave one of them out",
        ),
        (
            with_spec("storage: {compactPercent: 5}"),
            "c.yaml, MailCluster example: spec.storage.compactPercent must be from 10 to 100",
        ),
        (
            with_spec("smtp: {softLimitPercent: 101}"),
            "c.yaml, MailCluster example: spec.smtp.softLimitPercent must be from 1 to 100",
        ),
        (
            GOOD.replace("clusterRef: {name: example}", "clusterRef: {name: other}"),
            "c.yaml, MailServer mail: spec.clusterRef.name is 'other'; the MailCluster is 'example'",
        ),
        (
            placed("{name: a, when: {urgency: Soon}, group: mail}"),
            "c.yaml, MailCluster example: spec.placement.rules[0].when.urgency is 'Soon'; write High or Normal or Low",
        ),
        (
            placed("{name: a, when: {}, group: mail}"),
            "c.yaml, MailCluster example: spec.placement.rules[0].when is empty; say urgency, minSize, maxSize, "
            "domains or recipients of what is placed",
        ),
        (
            placed("{name: a, when: {minSize: 2Ki, maxSize: 1Ki}, group: mail}"),
            "c.yaml, MailCluster example: spec.placement.rules[0].when.minSize is larger than maxSize; "
            "lower the one or raise the other",
        ),
        (
            placed("{name: a, when: {minSize: 1}, group: fast}"),
            "c.yaml, MailCluster example: spec.placement.rules[0].group is 'fast'; "
            "write the name of a MailServer: mail",
        ),
        (
            placed("{name: a, when: {minSize: 1}, group: mail}, {name: a, when: {minSize: 2}, group: mail}"),
            "c.yaml, MailCluster example: spec.placement.rules[1].name a is there twice; rename one",
        ),
        (GOOD.replace("replicas: 3", "replicas: 0"), "c.yaml, MailServer mail: spec.replicas must be at least 1"),
        (
            GOOD.replace("replicas: 3", "replicas: 11"),
            "c.yaml: 11 servers are more than the 10 of one machine; lower spec.replicas",
        ),
        (
            GOOD.replace("replicas: 3", "replicas: 3, hostnames: mx.mail.example"),
            "c.yaml, MailServer mail: spec.hostnames needs {ordinal} in it, there are 3 servers",
        ),
        (
            GOOD.replace("replicas: 3", "replicas: 3, storage: {volumes: 0}"),
            "c.yaml, MailServer mail: spec.storage.volumes must be at least 1",
        ),
        (
            GOOD.replace("replicas: 3", "replicas: 3, storage: {volumes: 4}"),
            "c.yaml: 12 volumes of 3 servers are more than the 10 of one machine; "
            "lower spec.replicas or spec.storage.volumes",
        ),
        (
            GOOD.replace("{name: example}", "{name: example, annotations: {mailarray.io/local-ports: smtp=x}}", 1),
            "c.yaml, MailCluster example: metadata.annotations[mailarray.io/local-ports] has 'smtp=x'; "
            "write for example smtp=2525,pop3=2110,status=2180,internal=2200",
        ),
    ],
)
def test_one_sentence(document: str, sentence: str) -> None:
    with pytest.raises(ResourceError) as error:
        read_resources(document, "c.yaml")
    assert str(error.value) == sentence


def test_servers_take_turns_in_pretended_zones() -> None:
    annotated = 'metadata: {annotations: {mailarray.io/local-zones: "east, west"}, name: example}'
    text = GOOD.replace("metadata: {name: example}", annotated, 1)
    servers = render(read_resources(text, "c.yaml"), Layout(Path("/d"))).table.servers
    assert [(s.zone, s.node) for s in servers] == [("east", "node-0"), ("west", "node-1"), ("east", "node-2")]
    assert {s.zone for s in render(read_resources(GOOD, "c.yaml"), Layout(Path("/d"))).table.servers} == {""}


def test_what_means_nothing_here_is_noted() -> None:
    text = with_spec("mx: {strategy: Load, ttl: 60s}\nstorage: {spread: Zone}").replace(
        "replicas: 3", "replicas: 3, storage: {size: 100Gi}, expose: {type: LoadBalancer}"
    )
    assert read_resources(text, "c.yaml").notes == (
        "c.yaml, MailCluster example: spec.storage.spread is not used on one machine",
        "c.yaml, MailCluster example: spec.mx is not used on one machine",
        "c.yaml, MailServer mail: spec.storage.size is not used on one machine",
        "c.yaml, MailServer mail: spec.expose is not used on one machine",
    )


def test_rendering(tmp_path: Path) -> None:
    text = with_spec(
        "storage: {copies: 1, mirrorTimeout: 500ms, reserve: 10Mi, copyRate: 5M, duplicates: Keep, scrubInterval: 1h,\n"
        "  compactPercent: 30, compactLeast: 1Mi}\n"
        "smtp: {maxMessageSize: 1Mi, idleTimeout: 5m}\ntls: {secretRef: {name: t}}"
    )
    text += SERVERS.replace("name: mail}", "name: far}").replace("3", '1, hostnames: "mx-{ordinal}.far.example"')
    layout = Layout(tmp_path)
    array = render(read_resources(text, "c.yaml"), layout, generation=7)
    assert [(s.server, s.smtp.hostname, str(s.smtp.listen), str(s.writer), str(s.sidecar)) for s in array.servers] == [
        ("mail-0", "mail-0.mail.example", "127.0.0.1:2525", "127.0.0.1:2210", "127.0.0.1:2220"),
        ("mail-1", "mail-1.mail.example", "127.0.0.1:2526", "127.0.0.1:2211", "127.0.0.1:2221"),
        ("mail-2", "mail-2.mail.example", "127.0.0.1:2527", "127.0.0.1:2212", "127.0.0.1:2222"),
        ("far-0", "mx-0.far.example", "127.0.0.1:2528", "127.0.0.1:2213", "127.0.0.1:2223"),
    ]
    first = array.servers[0]
    assert (first.storage.copies, first.storage.mirror_timeout, first.storage.reserve) == (1, 0.5, 10 << 20)
    assert (first.storage.copy_rate, first.storage.duplicate_window) == (5_000_000, 0.0)
    assert (first.storage.compact_percent, first.storage.compact_least) == (30, 1 << 20)
    assert (first.storage.scrub_interval, first.storage.scrub_rate) == (3600.0, 16 << 20)
    assert (first.smtp.limits.max_message_size, first.smtp.limits.idle_timeout) == (1 << 20, 300.0)
    assert first.smtp.tls is not None and first.smtp.tls.key == str(tmp_path / "tls" / "tls.key")
    assert str(array.access.internal) == "127.0.0.1:2230"
    assert array.table.generation == 7
    assert array.table.rows["mail-2"] == (("far-0", "mail-0", "mail-1"),)
    assert len({listen.port for listen, _ in array.ports()}) == len(array.ports()) == 15
    files = array.files(layout)
    for path, text in files.items():
        Path(path).parent.mkdir(exist_ok=True)
        Path(path).write_text(text, encoding="utf-8")
    assert settings.load(ServerSettings, layout.settings_file("far-0")) == array.servers[3]
    assert settings.load(AccessSettings, layout.settings_file("access")) == array.access
    assert parse(files[str(layout.mirroring_table)]) == array.table


def test_rendering_several_volumes(tmp_path: Path) -> None:
    text = with_spec("storage: {copies: 2}") + SERVERS.replace("name: mail}", "name: far}").replace("3", "1")
    text = text.replace("replicas: 3", "replicas: 2, storage: {volumes: 3}", 1)
    layout = Layout(tmp_path)
    array = render(read_resources(text, "c.yaml"), layout)
    assert [(s.server, s.smtp.hostname, str(s.smtp.listen), str(s.sidecar)) for s in array.servers] == [
        ("mail-0", "mail-0.mail.example", "127.0.0.1:2525", "127.0.0.1:2220"),
        ("mail-0.1", "mail-0.mail.example", "127.0.0.1:2525", "127.0.0.1:2221"),
        ("mail-0.2", "mail-0.mail.example", "127.0.0.1:2525", "127.0.0.1:2222"),
        ("mail-1", "mail-1.mail.example", "127.0.0.1:2526", "127.0.0.1:2223"),
        ("mail-1.1", "mail-1.mail.example", "127.0.0.1:2526", "127.0.0.1:2224"),
        ("mail-1.2", "mail-1.mail.example", "127.0.0.1:2526", "127.0.0.1:2225"),
        ("far-0", "far-0.mail.example", "127.0.0.1:2527", "127.0.0.1:2226"),
    ]
    assert [s.smtp.shared_port for s in array.servers] == [True] * 6 + [False]
    assert [s.smtp.limits.max_connections for s in array.servers] == [334] * 6 + [1000]
    assert [s.smtp.limits.max_connections_per_address for s in array.servers] == [67] * 6 + [200]
    assert array.servers[0].smtp.limits.soft_pending_bytes == -(-(64 << 20) // 3)
    assert array.servers[0].smtp.limits.max_recipients == array.servers[-1].smtp.limits.max_recipients == 1000
    assert [Path(s.volume).relative_to(tmp_path / "servers") for s in array.servers[:2]] == [
        Path("mail-0/volume"),
        Path("mail-0/volume-1"),
    ]
    assert array.servers[1].run_directory == str(tmp_path / "servers" / "mail-0" / "run-1")
    files = array.files(layout)
    assert "shared_port" in files[str(layout.settings_file("mail-0"))]
    assert "shared_port" not in files[str(layout.settings_file("far-0"))]
    (layout.settings).mkdir()
    layout.settings_file("mail-0.1").write_text(files[str(layout.settings_file("mail-0.1"))], encoding="utf-8")
    assert settings.load(ServerSettings, layout.settings_file("mail-0.1")) == array.servers[1]
    specs = {spec.name: spec.arguments for spec in process_specs(array, layout, Isolation(50))}
    users = {name: arguments[arguments.index("--user") + 1] for name, arguments in specs.items()}
    assert users["mail-0/smtp"] == users["mail-0.2/sidecar"] == "50"
    assert (users["mail-1.1/smtp"], users["far-0/smtp"], users["access"]) == ("51", "52", "53")
