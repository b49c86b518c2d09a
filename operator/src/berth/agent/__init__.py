"""The node's agent: carries out orders through libvirt and reports what libvirt says."""
