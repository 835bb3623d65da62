"""What can go wrong with a development cluster, as one family of exceptions."""


class DevClusterError(Exception):
    """Base of every error a caller may show to a user as it stands: its text says what failed and what to do."""


class BuildError(DevClusterError):
    """A tool could not be built or a module could not be downloaded; the text ends with the compiler's last lines."""


class ComponentError(DevClusterError):
    """A component ended or did not become ready in time; the text ends with the last lines of its log."""


class PortTakenError(ComponentError):
    """A component found its port taken between the choice of the port and its own bind."""


class ProviderError(DevClusterError):
    """A provider cannot do what was asked: Docker does not run, a kubeconfig is missing, a name is in use."""
