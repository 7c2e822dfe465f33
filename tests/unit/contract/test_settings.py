"""Settings files and the mirroring table: what is written is what is read, and what is odd is named."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from mailarray.contract import mirroring_table, settings
from mailarray.contract.mirroring_ring import ring
from mailarray.contract.mirroring_table import Server
from mailarray.contract.resources import to_settings
from mailarray.contract.resources.mailcluster import MailClusterSpec, Placement, PlacementRule, Storage, When
from mailarray.contract.settings import (
    AccessSettings,
    CatalogSettings,
    DirectorySettings,
    DomainSettings,
    Listen,
    SettingsError,
    TlsSettings,
)

ACCESS = AccessSettings(
    cluster="example",
    name="access",
    hostname="pop.mail.example",
    pop3=Listen(host="127.0.0.1", port=2110),
    internal=Listen(host="127.0.0.1", port=2230),
    token_file="/t",
    mirroring_table_file="/m",
    catalog=CatalogSettings(url="sqlite:////c"),
    directory=DirectorySettings(domains=(DomainSettings(name="mail.example"),), accounts_file="/a"),
    tls=TlsSettings(certificate="/c", key="/k"),
)


def test_a_round_trip(tmp_path: Path) -> None:
    file = tmp_path / "s.json"
    file.write_text(settings.dump(ACCESS), encoding="utf-8")
    assert settings.load(AccessSettings, file) == ACCESS


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (('"port": 2110', '"port": "2110"'), "settings.pop3.port must be int, not str"),
        (('"port": 2110', '"port": true'), "settings.pop3.port must be int, not bool"),
        (('"copies"', '"kopies"'), "settings has an unknown field 'kopies'"),
        (('"name": "access",\n', ""), "settings: "),
        (("{", "", 1), "is not JSON"),
    ],
)
def test_what_is_odd_is_named(tmp_path: Path, change: tuple[str, ...], words: str) -> None:
    file = tmp_path / "s.json"
    file.write_text(settings.dump(ACCESS).replace(change[0], change[1], 1), encoding="utf-8")
    with pytest.raises(SettingsError) as error:
        settings.load(AccessSettings, file)
    assert words in str(error.value) and str(file) in str(error.value)


def test_the_ring_prefers_another_zone_then_another_node() -> None:
    servers = [
        Server(name, f"h:{i}", f"h:{i + 10}", zone, node)
        for i, (name, zone, node) in enumerate([("a", "1", "x"), ("b", "1", "x"), ("c", "1", "y"), ("d", "2", "z")])
    ]
    table = ring(servers, 3)
    assert table.rows["b"] == (("d",), ("c",), ("a",))
    assert table.rows["d"] == (("a", "b", "c"),)
    assert [[s.name for s in group] for group in table.candidates("a")] == [["d"], ["c"], ["b"]]
    assert table.candidates("stranger") == ()
    assert mirroring_table.parse(mirroring_table.dump(table)) == table


def test_a_draining_server_is_offered_to_nobody_and_keeps_candidates_of_its_own() -> None:
    servers = [Server(f"mail-{i}", f"h:{i}", f"w:{i}", state="Draining" if i == 1 else "Serving") for i in range(3)]
    table = ring(servers, 3)
    assert [[s.name for s in group] for group in table.candidates("mail-0")] == [["mail-2"]]
    assert [[s.name for s in group] for group in table.candidates("mail-1")] == [["mail-2", "mail-0"]]
    # A row that names it all the same offers it no more either.
    rows: dict[str, tuple[tuple[str, ...], ...]] = {"mail-0": (("mail-1",), ("mail-2",))}
    odd = mirroring_table.MirroringTable(4, tuple(servers), rows)
    assert [[s.name for s in group] for group in odd.candidates("mail-0")] == [[], ["mail-2"]]
    assert mirroring_table.parse(mirroring_table.dump(odd)) == odd
    unlisted = mirroring_table.MirroringTable(5, tuple(servers), {"mail-0": (("mail-9", "mail-2"),)})
    assert mirroring_table.parse(mirroring_table.dump(unlisted)) == unlisted
    assert [[s.name for s in group] for group in unlisted.candidates("mail-0")] == [["mail-2"]]


def test_tables_of_other_versions_are_read() -> None:
    old = '{"generation": 1, "servers": [{"name": "a", "sidecar": "s", "writer": "w"}], "rows": {}}'
    (server,) = mirroring_table.parse(old).servers
    assert server.serving and not server.draining
    newer = old.replace('"w"', '"w", "state": "Resting", "weight": 7').replace('"rows"', '"more": [], "rows"')
    (server,) = mirroring_table.parse(newer).servers
    assert not server.serving and not server.draining


def test_an_odd_table_is_a_sentence() -> None:
    unlisted = '{"generation": 1, "servers": [], "rows": {"a": [[0]]}}'
    for text in ("", "{}", unlisted, '{"generation": 1, "servers": [{"nam": 1}], "rows": {}}'):
        with pytest.raises(ValueError, match="not a mirroring table"):
            mirroring_table.parse(text)


SHARED = settings.dump(ACCESS).replace('"access"', '"{pod}"').replace("pop.mail", "pop-{ordinal}.{else}.mail")


@pytest.mark.parametrize(
    ("name", "known_as", "hostname"),
    [
        ("eu-pop-12", "eu-pop-12", "pop-12.{else}.mail.example"),
        (None, "{pod}", "pop-{ordinal}.{else}.mail.example"),
    ],
)
def test_one_file_for_all_pods_of_a_group(tmp_path: Path, name: str | None, known_as: str, hostname: str) -> None:
    (tmp_path / "s.json").write_text(SHARED)
    loaded = settings.load(AccessSettings, tmp_path / "s.json", name)
    assert (loaded.name, loaded.hostname, loaded.copies) == (known_as, hostname, 2)


@pytest.mark.parametrize("name", ["access", "access-7d4b-x2x9z", "access-", "access-\u0663"])
def test_a_name_without_ordinal_will_do_only_where_none_is_asked_for(tmp_path: Path, name: str) -> None:
    file = tmp_path / "s.json"
    file.write_text(SHARED)
    with pytest.raises(SettingsError, match=r"ordinal.* is used, but the name '.*' does not end in"):
        settings.load(AccessSettings, file, name)
    file.write_text(SHARED.replace("{ordinal}", "x"))
    assert settings.load(AccessSettings, file, name).name == name


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ('"url": "sqlite:////c"', "settings.catalog needs either url or url_file"),
        ('"accounts_file": "/a"', "settings.directory needs either accounts_file or snapshot_file"),
        ('"tls": {\n    "certificate": "/c",\n    "key": "/k"\n  }', "settings has pop3s without tls"),
    ],
)
def test_what_does_not_fit_together_is_a_sentence(tmp_path: Path, field: str, words: str) -> None:
    file = tmp_path / "s.json"
    text = settings.dump(dataclasses.replace(ACCESS, pop3s=Listen(host="127.0.0.1", port=2995)))
    assert field in text
    file.write_text(text.replace(field, field.split(":")[0] + ": null"))
    with pytest.raises(SettingsError, match=words):
        settings.load(AccessSettings, file)


def test_the_database_url_comes_from_a_file_as_it_is_now(tmp_path: Path) -> None:
    file = tmp_path / "url"
    catalog = CatalogSettings(url_file=str(file))
    with pytest.raises(SettingsError, match="url cannot be read: No such file or directory; it should hold the URL"):
        catalog.current_url()
    file.write_text(" \n")
    with pytest.raises(SettingsError, match="url is empty; it should hold the URL"):
        catalog.current_url()
    for password in ("one", "two"):
        file.write_text(f"postgresql://m:{password}@db/mail\n")
        assert catalog.current_url() == f"postgresql://m:{password}@db/mail"
    with pytest.raises(SettingsError):
        CatalogSettings(url="sqlite:///x", url_file="/x")


def test_a_password_is_not_shown() -> None:
    assert "geheim" not in repr(CatalogSettings(url="postgresql://m:geheim@db/mail"))


def test_rules_whose_group_is_not_there_are_told() -> None:
    rules = tuple(PlacementRule(name, When(min_size=1), group) for name, group in (("a", "x"), ("b", "y"), ("c", "z")))
    placement = Placement(rules)
    assert [rule.name for rule in placement.without_group({"x", "z"})] == ["b"]
    assert placement.without_group(["x", "y", "z"]) == []


@pytest.mark.parametrize(("written", "seconds"), [(None, 3.0), (0.5, 0.5)])
def test_a_hand_over_has_twice_the_mirror_timeout(written: float | None, seconds: float) -> None:
    spec = MailClusterSpec(
        domains=(), storage=Storage(mirror_timeout=1.5), placement=Placement(hand_over_timeout=written)
    )
    assert to_settings.placement(spec).hand_over_timeout == seconds
