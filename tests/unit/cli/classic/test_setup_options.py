"""What swtpm_setup makes of its words, as the page of the distribution's release describes them."""

import pytest

from swtpm_svc.cli.classic import setup_options


@pytest.mark.parametrize("name", ["swtpm_ioctl", "tcsd-system-ps-file"])
def test_an_option_of_old_releases_is_said_to_do_nothing(name):
    given = setup_options.read([f"--{name}", "word", "--tpm2"])
    assert given.notices == (f"Warning: --{name} is deprecated and has no effect.",)
    assert "tpm2" in given


def test_what_is_not_deprecated_is_not_remarked_on():
    given = setup_options.read(["--tpmstate", "/state", "--pcr-banks", "sha1", "--pcr-banks", "sha256"])
    assert given.notices == ()
    assert given.values == {"tpm-state": "/state", "pcr-banks": "sha1,sha256"}
