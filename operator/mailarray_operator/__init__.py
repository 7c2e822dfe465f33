"""The operator: turns MailClusters, MailServers and MirrorPairs into running servers.

Imports only `mailarray.contract` of the data plane.
"""
