"""The end-to-end rig without a guest: a concentrator between two namespaces, dialled by our own LAC."""
