.DEFAULT_GOAL := help
.PHONY: help build demo test lint bench bench-scale vm-image test-vm

help: ## what there is to make
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## the netwright binary
	cargo build

demo: ## the main job on real parts: etcd, kube-apiserver, two nodes (KEEP=1 leaves them up)
	tests/bed/install.sh
	cargo build
	tests/bed/demo.sh

# As root the tests that need a bed must run: without one they fail rather than skip.
test: ## all tests; as root also on real NetworkManagers and a real kube-apiserver
	tests/bed/install.sh
	if tests/bed/kube-apiserver.sh --can; then tests/bed/kube-apiserver.sh; tests/bed/kube-apiserver.sh kubectl; fi
	if tests/bed/helm.sh --can; then tests/bed/helm.sh; fi
	if tests/bed/nm-ovs.sh --can; then tests/bed/nm-ovs.sh; fi
	if [ "$$(id -u)" = 0 ]; then export NETWRIGHT_BED=1; fi; cargo test

lint: ## formatting, clippy, licences
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	@if command -v cargo-deny >/dev/null; then cargo deny check bans licenses sources; else echo "cargo-deny is not installed: licences not checked"; fi

bench: ## ratios to NetworkManager's own floor, and to nmstatectl where PEER=path names one
	tests/bed/install.sh
	if tests/bed/kube-apiserver.sh --can; then tests/bed/kube-apiserver.sh; tests/bed/kube-apiserver.sh kubectl; fi
	cargo bench --profile release --bench netwright

bench-scale: ## what a node and a policy cost: 100 and 300 agents on a real apiserver, 5,000 simulated (SIZES, SIMULATED)
	tests/bed/install.sh
	tests/bed/kube-apiserver.sh; tests/bed/kube-apiserver.sh kubectl
	cargo bench --profile release --bench scale

vm-image: ## the Debian 13 machine of the next target (kept in ~/.cache/netwright/vm)
	tests/vm/image.sh

test-vm: ## every interface type on a real kernel, systemd and NetworkManager, in QEMU (VM_CASES="vlan bond/arp-monitor" for some)
	tests/vm/run.sh
