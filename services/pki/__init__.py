"""The fleet's own authority: keys, requests, certificates and lists of revoked ones, as files of plain PEM."""
