module testbed/attach

go 1.26.0
