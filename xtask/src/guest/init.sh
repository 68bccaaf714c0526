#!/bin/sh
# The guest's first process: kernel modules, cloud-init NoCloud seed, network, SSH, serial console.
# busybox runs it; what it prints goes to the serial console.
export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/root

say() { echo "scp-guest: $*" >/dev/console; }

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /seed /disk /run /tmp
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /run

# --- hardware -------------------------------------------------------------------------------------
while read -r module; do modprobe -q "$module" || say "module $module does not load"; done </etc/modules
# Everything may be asked of the kernel: the guest is there to be crashed.
echo 1 >/proc/sys/kernel/sysrq

# --- seed: a FAT volume labelled cidata -----------------------------------------------------------
seed=$(findfs LABEL=cidata 2>/dev/null || findfs LABEL=CIDATA 2>/dev/null)
[ -n "$seed" ] && mount -t vfat -o ro "$seed" /seed
disk=$(findfs LABEL=SCPGUEST 2>/dev/null)
[ -n "$disk" ] && mount -t vfat -o sync "$disk" /disk

# `key: value` of the metadata, with or without quotes.
metadata() { sed -n "s/^$1: *//p" /seed/meta-data 2>/dev/null | tr -d "\"'\r" | head -n 1; }

hostname=$(metadata local-hostname)
hostname "${hostname:-guest}"
echo "127.0.0.1 localhost $(hostname)" >/etc/hosts

# Keys stand in the metadata or in #cloud-config as list items, quoted or not.
mkdir -p -m 700 /root/.ssh
sed -n "s/^ *- *[\"']\{0,1\}\(\(ssh-\|ecdsa-\|sk-\)[^\"']*\)[\"']\{0,1\}\r\{0,1\}$/\1/p" \
    /seed/meta-data /seed/user-data 2>/dev/null | sort -u >/root/.ssh/authorized_keys
chmod 600 /root/.ssh/authorized_keys

# --- network: DHCP on the first card, in the background -------------------------------------------
cat >/etc/udhcpc.sh <<'EOF'
#!/bin/sh
[ "$1" = bound ] || [ "$1" = renew ] || exit 0
ip address replace "$ip/${mask:-24}" dev "$interface"
[ -n "$router" ] && ip route replace default via "${router%% *}" dev "$interface"
: >/etc/resolv.conf
for server in $dns; do echo "nameserver $server" >>/etc/resolv.conf; done
[ "$1" = bound ] && echo "scp-guest: address $ip" >/dev/console
exit 0
EOF
chmod 755 /etc/udhcpc.sh
ip link set lo up
for card in /sys/class/net/*; do
    card=${card##*/}
    [ "$card" = lo ] && continue
    ip link set "$card" up
    udhcpc -i "$card" -b -t 3 -A 5 -s /etc/udhcpc.sh >/dev/null 2>&1 &
    break
done

# --- services -------------------------------------------------------------------------------------
mkdir -p /etc/dropbear
dropbear -R -s 2>/dev/null
# The power button shuts down in order.
acpid -f -l /dev/null -c /etc/acpi >/dev/null 2>&1 &

# User data that begins with #! is a program, run once, like cloud-init's.
if head -c 2 /seed/user-data 2>/dev/null | grep -q '^#!'; then
    cp /seed/user-data /run/user-data
    chmod 700 /run/user-data
    /run/user-data >/run/user-data.log 2>&1
    say "user data ended with status $?"
fi

say "ready: $(hostname) after $(cut -d' ' -f1 /proc/uptime) s"
exec init
