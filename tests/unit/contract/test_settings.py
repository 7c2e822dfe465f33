"""Settings files and the mirroring table: what is written is what is read, and what is odd is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailarray.contract import mirroring_table, settings
from mailarray.contract.mirroring_table import Server, ring
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
    rows = {"mail-0": (("mail-1",), ("mail-2",))}
    odd = mirroring_table.MirroringTable(4, tuple(servers), rows)
    assert [[s.name for s in group] for group in odd.candidates("mail-0")] == [[], ["mail-2"]]
    assert mirroring_table.parse(mirroring_table.dump(odd)) == odd


def test_tables_of_other_versions_are_read() -> None:
    old = '{"generation": 1, "servers": [{"name": "a", "sidecar": "s", "writer": "w"}], "rows": {}}'
    (server,) = mirroring_table.parse(old).servers
    assert server.serving and not server.draining
    newer = old.replace('"w"', '"w", "state": "Resting", "weight": 7').replace('"rows"', '"more": [], "rows"')
    (server,) = mirroring_table.parse(newer).servers
    assert not server.serving and not server.draining


def test_an_odd_table_is_a_sentence() -> None:
    for text in ("", "{}", '{"generation": 1, "servers": [{"nam": 1}], "rows": {}}'):
        with pytest.raises(ValueError, match="not a mirroring table"):
            mirroring_table.parse(text)
