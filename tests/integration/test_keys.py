"""OpenPGP keys, as others may have made them."""

from hpcc.signing import openpgp


def test_a_name_that_a_terminal_would_take_for_commands() -> None:
    public, _ = openpgp.generate("Eve\x1b[2J\nLOCAL <e@example.org>", 2048, "")
    (key,) = openpgp.parse_keys(public, "the key")
    assert key.user == "Eve?[2J?LOCAL <e@example.org>"
