"""A disk that fails and stalls as a test says: a FUSE file system of the test's own, in memory.

    faulty_disk.py MOUNTPOINT RULES

RULES is a file of lines "OPERATION delay SECONDS" and "OPERATION error ERRNO", read at each operation; `FaultyDisk` is
the test's side of both.
"""

import errno
import os
import stat
import subprocess
import sys
import time


class FaultyDisk:
    """The mounted disk.

    `fail` and `stall` hold until `mend`; an operation is create, read, write, fsync, fsyncdir, ...
    """

    def __init__(self, folder):
        self.path, self._rules = f"{folder}/disk", f"{folder}/rules"
        os.mkdir(self.path)
        self.mend()
        self._process = subprocess.Popen([sys.executable, __file__, self.path, self._rules], stdout=subprocess.PIPE)
        assert self._process.stdout.read(1) == b"+"

    def _write(self, text):
        with open(self._rules + ".new", "w", encoding="utf-8") as file:
            file.write(text)
        os.rename(self._rules + ".new", self._rules)

    def fail(self, name, *operations):
        self._write("".join(f"{operation} error {name}\n" for operation in operations))

    def stall(self, seconds, *operations):
        self._write("".join(f"{operation} delay {seconds}\n" for operation in operations))

    def mend(self):
        self._write("")

    def close(self):
        self.mend()
        subprocess.run(["umount", "-l", self.path], check=False)
        self._process.kill()  # whoever has files there still gets errors
        self._process.wait()
        self._process.stdout.close()


def serve(mountpoint, rules):
    import pyfuse3
    import trio

    class Node:
        def __init__(self, number, mode):
            self.number, self.mode, self.links, self.data = number, mode, 1, bytearray()
            self.mtime_ns = time.time_ns()

    class Disk(pyfuse3.Operations):
        def __init__(self):
            super().__init__()
            self.nodes = {pyfuse3.ROOT_INODE: Node(pyfuse3.ROOT_INODE, stat.S_IFDIR | 0o700)}
            self.names = {}
            self.next = pyfuse3.ROOT_INODE + 1

        async def obey(self, operation):
            with open(rules, encoding="utf-8") as file:
                lines = [line.split() for line in file]
            for name, kind, value in lines:
                if name == operation and kind == "delay":
                    await trio.sleep(float(value))
                elif name == operation:
                    raise pyfuse3.FUSEError(getattr(errno, value))

        def entry(self, number):
            node = self.nodes[number]
            entry = pyfuse3.EntryAttributes()
            entry.st_ino, entry.st_mode, entry.st_nlink = number, node.mode, node.links
            entry.st_uid = entry.st_gid = 0
            entry.st_size = len(node.data)
            entry.st_atime_ns = entry.st_mtime_ns = entry.st_ctime_ns = node.mtime_ns
            entry.st_blksize, entry.st_blocks = 512, (len(node.data) + 511) // 512
            entry.attr_timeout = entry.entry_timeout = 0
            return entry

        def number(self, name):
            if name not in self.names:
                raise pyfuse3.FUSEError(errno.ENOENT)
            return self.names[name]

        async def lookup(self, parent, name, ctx=None):
            return self.entry(self.number(name))

        async def getattr(self, inode, ctx=None):
            await self.obey("getattr")
            return self.entry(inode)

        async def setattr(self, inode, attr, fields, fh, ctx=None):
            node = self.nodes[inode]
            if fields.update_size:
                node.data[attr.st_size :] = bytes(max(0, attr.st_size - len(node.data)))
            if fields.update_mode:
                node.mode = attr.st_mode
            return self.entry(inode)

        async def open(self, inode, flags, ctx):
            return pyfuse3.FileInfo(fh=inode)

        async def create(self, parent, name, mode, flags, ctx):
            await self.obey("create")
            node = self.nodes[self.next] = Node(self.next, mode)
            self.names[name] = self.next
            self.next += 1
            return pyfuse3.FileInfo(fh=node.number), self.entry(node.number)

        async def mkdir(self, parent, name, mode, ctx):
            node = self.nodes[self.next] = Node(self.next, stat.S_IFDIR | mode)
            self.names[name] = self.next
            self.next += 1
            return self.entry(node.number)

        async def read(self, fh, offset, size):
            await self.obey("read")
            return bytes(self.nodes[fh].data[offset : offset + size])

        async def write(self, fh, offset, data):
            await self.obey("write")
            node = self.nodes[fh]
            node.data[offset : offset + len(data)] = data
            node.mtime_ns = time.time_ns()
            return len(data)

        async def fsync(self, fh, datasync):
            await self.obey("fsync")

        async def fsyncdir(self, fh, datasync):
            await self.obey("fsyncdir")

        async def unlink(self, parent, name, ctx):
            await self.obey("unlink")
            self.nodes[self.number(name)].links -= 1
            del self.names[name]

        async def rmdir(self, parent, name, ctx):
            del self.names[name]

        async def rename(self, parent, name, new_parent, new_name, flags, ctx):
            await self.obey("rename")
            number = self.number(name)
            self.names[new_name] = number
            del self.names[name]

        async def link(self, inode, parent, name, ctx):
            await self.obey("link")
            self.names[name] = inode
            self.nodes[inode].links += 1
            return self.entry(inode)

        async def opendir(self, inode, ctx):
            return inode

        async def readdir(self, fh, start, token):
            for index, (name, number) in enumerate(sorted(self.names.items())):
                if index >= start and not pyfuse3.readdir_reply(token, name, self.entry(number), index + 1):
                    return

    pyfuse3.init(Disk(), mountpoint, {"fsname=faulty", "default_permissions"})
    sys.stdout.write("+")
    sys.stdout.close()
    try:
        trio.run(pyfuse3.main)
    finally:
        pyfuse3.close()


if __name__ == "__main__":
    serve(*sys.argv[1:])
