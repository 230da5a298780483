//! The do-little server: the limit that any server on this machine can be held against.
//!
//! One thread per connection reads as many requests as are there, serves each with a plain `pread` or `pwrite`, and
//! answers all with one send. No options but `GO`, no errors, no care: it shows what the socket and the page cache
//! cost, and that the load generator is not what limits the table.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use crate::wire::{REQUEST_BYTES, REQUEST_MAGIC, SIMPLE_REPLY_MAGIC};

const BUFFER_BYTES: usize = 8 << 20;
const OPTION_GO: u32 = 7;
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;

/// Serves `disk` on `socket` until killed.
pub fn serve(disk: &Path, socket: &Path) -> Result<()> {
    let listener = UnixListener::bind(socket).context("cannot listen")?;
    let file = File::options().read(true).write(true).open(disk).context("cannot open the disk")?;
    for stream in listener.incoming() {
        let (stream, file) = (stream?, file.try_clone()?);
        std::thread::spawn(move || {
            let _ = connection(stream, &file);
        });
    }
    Ok(())
}

fn connection(mut stream: UnixStream, file: &File) -> Result<()> {
    negotiate(&mut stream, file.metadata()?.len())?;
    let mut input = vec![0; BUFFER_BYTES];
    let mut filled = 0;
    let mut output = Vec::with_capacity(BUFFER_BYTES);
    loop {
        let received = stream.read(input.get_mut(filled..).unwrap_or_default())?;
        if received == 0 {
            return Ok(());
        }
        filled += received;
        output.clear();
        let left = serve_all(input.get(..filled).unwrap_or_default(), file, &mut output)?;
        input.copy_within(filled - left..filled, 0);
        filled = left;
        if !output.is_empty() {
            stream.write_all(&output)?;
        }
    }
}

/// Serves every whole request; answers how many bytes of an incomplete one remain.
fn serve_all(mut input: &[u8], file: &File, output: &mut Vec<u8>) -> Result<usize> {
    loop {
        let Some((header, rest)) = input.split_first_chunk::<REQUEST_BYTES>() else { return Ok(input.len()) };
        let [m0, m1, m2, m3, _, _, _, kind, fields @ ..] = *header;
        ensure!(u32::from_be_bytes([m0, m1, m2, m3]) == REQUEST_MAGIC, "bad magic number");
        let [c0, c1, c2, c3, c4, c5, c6, c7, o0, o1, o2, o3, o4, o5, o6, o7, length @ ..] = fields;
        let offset = u64::from_be_bytes([o0, o1, o2, o3, o4, o5, o6, o7]);
        let length = u32::from_be_bytes(length) as usize;
        ensure!(length <= BUFFER_BYTES / 2, "request too long");
        let reply = |output: &mut Vec<u8>| {
            output.extend(SIMPLE_REPLY_MAGIC.to_be_bytes());
            output.extend([0, 0, 0, 0, c0, c1, c2, c3, c4, c5, c6, c7]);
        };
        match kind {
            0 => {
                reply(output);
                let start = output.len();
                output.resize(start + length, 0);
                file.read_exact_at(output.get_mut(start..).unwrap_or_default(), offset)?;
                input = rest;
            }
            1 => {
                let Some((data, rest)) = rest.split_at_checked(length) else { return Ok(input.len()) };
                file.write_all_at(data, offset)?;
                reply(output);
                input = rest;
            }
            _ => bail!("disconnect"),
        }
    }
}

fn negotiate(stream: &mut UnixStream, size_bytes: u64) -> Result<()> {
    stream.write_all(b"NBDMAGICIHAVEOPT\0\x03")?;
    let mut flags = [0; 4];
    stream.read_exact(&mut flags)?;
    loop {
        let mut option = [0; 16];
        stream.read_exact(&mut option)?;
        let [_, _, _, _, _, _, _, _, k0, k1, k2, k3, length @ ..] = option;
        let kind = u32::from_be_bytes([k0, k1, k2, k3]);
        std::io::copy(
            &mut Read::by_ref(stream).take(u64::from(u32::from_be_bytes(length))),
            &mut std::io::sink(),
        )?;
        let mut reply = |code: u32, payload: &[u8]| {
            let mut message = OPTION_REPLY_MAGIC.to_be_bytes().to_vec();
            message.extend(kind.to_be_bytes());
            message.extend(code.to_be_bytes());
            message.extend(u32::try_from(payload.len()).unwrap_or_default().to_be_bytes());
            message.extend(payload);
            stream.write_all(&message)
        };
        if kind != OPTION_GO {
            reply(0x8000_0001, &[])?;
            continue;
        }
        let info = [&[0, 0][..], &size_bytes.to_be_bytes(), &1_u16.to_be_bytes()].concat();
        reply(3, &info)?;
        return reply(1, &[]).context("cannot answer");
    }
}
