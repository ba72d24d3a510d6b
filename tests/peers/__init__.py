"""The rig: a guest with real peers, a concentrator in a namespace, clients that dial it."""
