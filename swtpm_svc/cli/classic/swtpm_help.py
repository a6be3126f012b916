"""The help of swtpm's interfaces, on standard output; callers look for words in it."""

GENERAL = """\
TPM emulator with choice of interface.

Usage: {program} socket|chardev|cuse [options]
       {program} -v|--version

Use the --help option to see the help screen for each interface type.
Use the --version options to see version information.
"""

_SOCKET = """\
-p|--port PORT   : take TPM commands on this TCP port of 127.0.0.1; the connection is closed after each response
-f|--fd FD       : take TPM commands on this connected socket, and end with it
-t|--terminate   : end when the data connection has ended
-d|--daemon      : go on in the background; the command ends when the TPM is ready
--server [type=tcp,]port=PORT[,bindaddr=ADDRESS[,ifname=NAME]][,disconnect] | type=tcp,fd=FD
                 : take TPM commands over TCP (127.0.0.1), or on a connected socket, with which it ends;
                   disconnect: close the connection after each response
--server type=unixio,path=PATH|fd=FD[,mode=0...][,uid=USER][,gid=GROUP][,disconnect]
                 : take TPM commands on a UNIX socket, or one that listens already
"""
_CHARDEV = """\
-c|--chardev DEVICE
                 : take TPM commands on this character device
-f|--fd FD       : take TPM commands on this open character device
--vtpm-proxy     : have the kernel's driver vtpm_proxy make a TPM, and serve it
-d|--daemon      : go on in the background; the command ends when the TPM is ready
"""
_CONTROL = """\
--ctrl type=unixio,path=PATH|fd=FD|clientfd=FD[,mode=0...][,uid=USER][,gid=GROUP][,terminate]
--ctrl type=tcp,port=PORT[,bindaddr=ADDRESS[,ifname=NAME]]|fd=FD[,terminate]
                 : the control channel; fd listens, clientfd is connected; terminate: end with a control connection
"""
_CUSE = """\
-n|--name NAME   : the device's name below /dev; mandatory
-M|--maj MAJOR   : its major number; without it the kernel chooses
-m|--min MINOR   : its minor number
-v|--version     : show the version
"""
_COMMON = """\
--tpmstate dir=PATH|backend-uri=dir://PATH|backend-uri=file://PATH[,mode=0...][,lock][,backup][,fsync]
                 : where the TPM's state is kept; in a folder, a file or a block device
--tpm2           : a TPM 2.0; without it a TPM 1.2
--log file=PATH|fd=FD[,level=N][,prefix=TEXT][,truncate]
                 : where the log is written; file=-: nowhere; level 2 shows the traffic, from 5 on libtpms logs too
--key file=PATH|fd=FD[,mode=aes-cbc|aes-256-cbc][,format=hex|binary][,remove]
--key pwdfile=PATH|pwdfd=FD[,mode=aes-cbc|aes-256-cbc][,kdf=pbkdf2|sha512][,remove]
                 : the key that encrypts the state files, or a passphrase for it
--migration-key  : the key that encrypts state blobs; as --key
--locality [reject-locality-4][,allow-set-locality]
                 : refuse locality 4; obey the command that sets the locality
--pid file=PATH|fd=FD
                 : where the pid is written
-r|--runas USER  : run as this user
-R|--chroot PATH : with this folder as root
--seccomp action=none|kill|log
                 : what becomes of the process at a system call that it has no use for
--flags [not-need-init][,startup-clear|startup-state|startup-deactivated|startup-none][,disable-auto-shutdown]
                 : power the TPM without waiting for an INIT, and start it
--migration [incoming][,release-lock-outgoing]
                 : for a state that two hosts share
--profile name=NAME|profile=JSON|file=PATH|fd=FD[,remove-disabled=check|fips-host]
                 : the profile of a new TPM 2.0 (libtpms 0.10)
--pcap file=PATH|fd=FD[,truncate][,mode=0...][,checksums]
                 : capture commands and responses in the form of pcapng
--print-capabilities
                 : print what this program can
--print-states   : print which state there is
--print-profiles : print the profiles that there are
--print-info N   : print facts about the TPM, chosen by the bits of N
-h|--help        : print this
"""

OF = {
    "socket": _SOCKET + _CONTROL + _COMMON,
    "chardev": _CHARDEV + _CONTROL + _COMMON,
    "cuse": _CUSE + _COMMON,
}


def of_interface(interface: str, usage: str) -> str:
    return f"Usage: {usage} [options]\n\nThe following options are supported:\n\n{OF[interface]}\n"
