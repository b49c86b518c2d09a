"""Pure: knows libvirt's words, not libvirt. Order and facts in, domain XML out; domain XML in, observed Domain out."""
