# Each target is one script or one meson call; `make help` lists them.

all: build/build.ninja
	meson compile -C build

build/build.ninja:
	meson setup build

python:
	@qemu/bootstrap

# FEATURES=all: what Debian's own QEMU has, instead of what the tests need.
qemu: python
	qemu/import --install-packages $(if $(filter all,$(FEATURES)),qemu/packages-all)
	qemu/import

deb: python
	packaging/build

demo: python
	tests/guest/demo

check: python
	tests/check

check-full: python
	tests/check long docs bases

check-kvm: python
	tests/check kvm

check-libvirt: python
	tests/check libvirt

check-qemu: python
	tests/check-qemu

check-deb: python
	tests/check deb

docs: python
	docs/make

bench: python
	tools/fastload-bench/bench

check-unit: all
	meson test -C build --print-errorlogs

clean:
	rm -rf build build-asan build-tsan build-fuzz

distclean: clean
	rm -rf build-qemu build-deb

help:
	@echo 'make             the engine on its own, in build/'
	@echo 'make qemu        QEMU with the engine in it, in build-qemu/'
	@echo 'make deb         Debian packages of it, in build-deb/; as root'
	@echo 'make demo        a real guest, restored both ways'
	@echo 'make check       the tests; tests/check SUITE... runs some'
	@echo 'make check-full  TSan; what is random or repeated; other QEMU versions'
	@echo 'make check-kvm   all cases of guests under KVM'
	@echo 'make check-libvirt  saved and restored by libvirt; needs root'
	@echo 'make check-qemu  the migration tests of QEMU, patched and not'
	@echo 'make check-deb   builds the packages, installs and tries them; as root'
	@echo 'make bench       the standard comparison, in build/bench.html'
	@echo 'make docs        manual and man pages as HTML, in build/docs/'
	@echo 'make check-unit  the unit tests of the engine'
	@echo 'BASE=NAME        after qemu, demo, check, check-qemu: which QEMU,'
	@echo '                 a row of qemu/bases; else the newest there is'
	@echo 'FEATURES=all     after qemu: all that the QEMU of Debian has'
	@echo 'SUITE=NAME       after deb, check-deb: which Debian, a row of'
	@echo '                 packaging/suites; else the first'
	@echo 'make clean       remove build/, build-asan/, build-tsan/, build-fuzz/'
	@echo 'make distclean   remove build-qemu/, build-deb/ too'

.PHONY: all python qemu deb demo check check-full check-kvm check-qemu
.PHONY: check-deb check-libvirt docs bench check-unit clean distclean help
