//! Makes tar streams by hand, also such as no program writes.

/// One member: every field as it goes into the header.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) name: Vec<u8>,
    pub(crate) kind: u8,
    pub(crate) link: Vec<u8>,
    pub(crate) content: Vec<u8>,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: u64,
    pub(crate) device: (u32, u32),
    pub(crate) xattrs: Vec<(String, Vec<u8>)>,
}

impl Member {
    pub(crate) fn new(name: &str, kind: u8) -> Self {
        let mode = if kind == b'5' { 0o755 } else { 0o644 };
        Self {
            name: name.into(),
            kind,
            link: Vec::new(),
            content: Vec::new(),
            mode,
            uid: 0,
            gid: 0,
            mtime: 1_000,
            device: (0, 0),
            xattrs: Vec::new(),
        }
    }

    pub(crate) fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    pub(crate) fn owner(mut self, uid: u32, gid: u32) -> Self {
        (self.uid, self.gid) = (uid, gid);
        self
    }

    pub(crate) fn xattr(mut self, name: &str, value: &[u8]) -> Self {
        self.xattrs.push((name.to_owned(), value.to_vec()));
        self
    }

    /// The header block alone.
    pub(crate) fn header(&self) -> [u8; 512] {
        let mut block = [0; 512];
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &self.name[..self.name.len().min(100)]);
        put(100, format!("{:07o}\0", self.mode).as_bytes());
        put(108, format!("{:07o}\0", self.uid).as_bytes());
        put(116, format!("{:07o}\0", self.gid).as_bytes());
        put(124, format!("{:011o}\0", self.content.len()).as_bytes());
        put(136, format!("{:011o}\0", self.mtime).as_bytes());
        put(156, &[self.kind]);
        put(157, &self.link[..self.link.len().min(100)]);
        put(257, b"ustar\x0000");
        put(329, format!("{:07o}\0", self.device.0).as_bytes());
        put(337, format!("{:07o}\0", self.device.1).as_bytes());
        seal(&mut block);
        block
    }

    pub(crate) fn append(&self, out: &mut Vec<u8>) {
        if !self.xattrs.is_empty() {
            let records: Vec<u8> = self
                .xattrs
                .iter()
                .flat_map(|(name, value)| record(&format!("SCHILY.xattr.{name}"), value))
                .collect();
            pax(&records).append(out);
        }
        out.extend_from_slice(&self.header());
        out.extend_from_slice(&self.content);
        out.resize(out.len().next_multiple_of(512), 0);
    }
}

/// Computes the checksum of a header.
pub(crate) fn seal(block: &mut [u8; 512]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

pub(crate) fn record(name: &str, value: &[u8]) -> Vec<u8> {
    let rest = name.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    [format!("{length} {name}=").as_bytes(), value, b"\n"].concat()
}

pub(crate) fn pax(records: &[u8]) -> Member {
    Member { content: records.to_vec(), ..Member::new("././@PaxHeader", b'x') }
}

pub(crate) fn file(name: &str, content: &str) -> Member {
    Member { content: content.into(), ..Member::new(name, b'0') }
}

pub(crate) fn dir(name: &str) -> Member {
    Member::new(name, b'5')
}

pub(crate) fn symlink(name: &str, target: &str) -> Member {
    Member { link: target.into(), mode: 0o777, ..Member::new(name, b'2') }
}

pub(crate) fn hardlink(name: &str, target: &str) -> Member {
    Member { link: target.into(), ..Member::new(name, b'1') }
}

pub(crate) fn archive(members: &[Member]) -> Vec<u8> {
    let mut out = Vec::new();
    for member in members {
        member.append(&mut out);
    }
    out.resize(out.len() + 1_024, 0);
    out
}
