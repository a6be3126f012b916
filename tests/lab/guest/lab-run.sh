#!/bin/bash
# In the image, started by lab.service: unpack the disk "in" into /root/in and run what it brings. All else is in run.sh
# there, so that a change of it needs no new image.
read -r up _ </proc/uptime; echo "LAB: start at $up s" >/dev/console
export LAB_IN=/dev/ubdb LAB_OUT=/dev/ubdc   # User-Mode Linux
if [ ! -b $LAB_IN ]; then
  LAB_IN=/dev/disk/by-id/virtio-in LAB_OUT=/dev/disk/by-id/virtio-out
  modprobe -aq virtio_pci virtio_blk; udevadm settle
fi
mkdir -p /root/in /root/out; cd /root/in || exit 1
tar -xf $LAB_IN
./run.sh   # which switches off; the next line is for when it cannot
systemctl poweroff --force --force
