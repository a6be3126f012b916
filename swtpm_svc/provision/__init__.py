#: Where the local CA lives. Here and not in ca.py, which takes `cryptography` to be imported.
CA_DIRECTORY = "/var/lib/vtpm-ca"
