"""A whole single-node Kubernetes on one Linux machine, without Docker.

The node lives in namespaces of its own: processes, mounts, network, IPC and host name. Everything that runs on it has
one ancestor, the namespace's first process, and when that ends, however it ends, the kernel ends all the others and
takes their mounts, network namespaces, bridges and packet-filter rules with it. What remains outside is listed in
:mod:`sluice_devcluster.node.cleanup`: one folder, one tree of control groups and a handful of kernel settings.
"""
