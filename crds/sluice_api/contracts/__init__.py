"""File contracts: the JSON documents that pass between the agent, the workers and the operator.

One module a document. Readers tolerate fields they do not know (a newer writer may add some) and refuse
documents that lack what they need; writers never drop or rename a field.
"""
