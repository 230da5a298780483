//! The store that requests are redirected to which concern what is still to be put back. Who is redirected is inside the
//! device's gate.

use bowline_block::{
    Buf, ByteRange, Done, Error, ErrorKind, ExtentKind, ExtentList, Flags, Geometry, Io, IoFuture, Now, Op,
    Request, Result, Store,
};

use super::core::Core;
use super::pending::Claimed1;
use crate::cow::{GRANULE_BYTES, Granules, ZONE_GRANULES, window};

/// Bytes of a discard or write-zeroes that is done at once where something is pending: a zone.
const PIECE_BYTES: u64 = ZONE_GRANULES * GRANULE_BYTES;

impl Store for Core {
    fn geometry(&self) -> Geometry {
        self.below().geometry()
    }

    fn location(&self) -> String {
        self.below().location()
    }

    fn submit(&self, io: Io) -> IoFuture<'_> {
        let Io { request, mut data } = io;
        Box::pin(async move {
            match request.op {
                Op::Read => {
                    let result = self.read(request, &mut data).await;
                    Done::new(result, data)
                }
                Op::Write => self.write(request, data).await,
                Op::Flush => Done::new(self.commit(&*self.below()).await, data),
                _ => Done::new(self.clear(request).await, data),
            }
        })
    }

    fn extents_now(&self, range: ByteRange, found: &mut ExtentList) -> Now {
        found.push(range, ExtentKind::Data);
        Now::Done(Ok(()))
    }
}

impl Core {
    /// Reads what is pending from the snapshot, the rest from below.
    async fn read(&self, request: Request, data: &mut [u8]) -> Result<()> {
        let below = self.below();
        let whole = request.range;
        let mut rest = whole;
        while !rest.is_empty() {
            let run = self.pending().first(Granules::touched_by(rest));
            let run = run.map(|run| run.bytes(u64::MAX).intersection(rest));
            let (plain, pending) = match run {
                Some(run) => (ByteRange::between(rest.start(), run.start()), run),
                None => (rest, ByteRange::between(rest.end(), rest.end())),
            };
            if !plain.is_empty() {
                let len = usize::try_from(plain.len()).unwrap_or(0);
                let done = below.submit(Io::new(request.on(plain), bowline_io::alloc(len))).await;
                done.result?;
                let room = window(whole, plain, data);
                if room.len() != done.data.len() {
                    return Err(Error::new(ErrorKind::Io, "a read came back short"));
                }
                room.copy_from_slice(&done.data);
            }
            if !pending.is_empty() {
                // Who clears it meanwhile changes nothing of this: old contents stay where they are.
                self.source.read(pending, window(whole, pending, data)).await?;
            }
            rest = ByteRange::between(pending.end(), whole.end());
        }
        Ok(())
    }

    /// Writes. What is only touched of a pending granule is put back first; what is covered need not be.
    async fn write(&self, request: Request, data: Buf) -> Done {
        let below = self.below();
        if let Err(error) = self.put_back_edges(&*below, request.range).await {
            return Done::new(Err(error), data);
        }
        let claimed = match self.claim_all(request.range).await {
            Ok(claimed) => claimed,
            Err(error) => return Done::new(Err(error), data),
        };
        let Done { mut result, data } = below.submit(Io::new(request, data)).await;
        if result.is_ok() {
            result = self.overwritten(claimed).await;
        }
        if result.is_ok() && request.flags.contains(Flags::FUA) && self.has_unconfirmed() {
            result = self.commit(&*below).await;
        }
        Done::new(result, data)
    }

    /// Discards or zeroes, piece by piece where something is pending.
    async fn clear(&self, request: Request) -> Result<()> {
        let below = self.below();
        self.put_back_edges(&*below, request.range).await?;
        let mut rest = request.range;
        while !rest.is_empty() {
            let next = self.pending().first(Granules::touched_by(rest));
            let next = next.map_or(rest.end(), |run| run.bytes(u64::MAX).start().max(rest.start()));
            let piece = if next > rest.start() {
                ByteRange::between(rest.start(), next)
            } else {
                rest.split_at((next / PIECE_BYTES + 1).saturating_mul(PIECE_BYTES)).0
            };
            let claimed = self.claim_all(piece).await?;
            below.submit(Io::bare(request.on(piece))).await.result?;
            self.overwritten(claimed).await?;
            rest = ByteRange::between(piece.end(), rest.end());
        }
        if request.flags.contains(Flags::FUA) && self.has_unconfirmed() {
            self.commit(&*below).await?;
        }
        Ok(())
    }

    /// Puts back the pending granules of which the range covers a part only.
    async fn put_back_edges(&self, below: &dyn Store, range: ByteRange) -> Result<()> {
        let touched = Granules::touched_by(range);
        let inside = Granules::inside(range, self.pending().size());
        let edges = [
            Granules { first: touched.first, end: inside.first.min(touched.end) },
            Granules { first: inside.end.max(touched.first), end: touched.end },
        ];
        for edge in edges {
            while let Some(claimed) = self.claim(edge, 1).await? {
                self.put_back(below, claimed).await?;
            }
        }
        Ok(())
    }

    /// Claims all that is pending in the range, in ascending order, so that two who do so wait for each other one way.
    async fn claim_all(&self, range: ByteRange) -> Result<Vec<Claimed1<'_>>> {
        let touched = Granules::touched_by(range);
        let mut from = touched.first;
        let mut all = Vec::new();
        while let Some(claimed) = self.claim(Granules { first: from, end: touched.end }, u16::MAX).await? {
            from = claimed.granules().end;
            all.push(claimed);
        }
        Ok(all)
    }

    /// Claimed granules have new contents.
    async fn overwritten(&self, claimed: Vec<Claimed1<'_>>) -> Result<()> {
        for claimed in claimed {
            self.record(claimed.granules()).await?;
            claimed.clear();
        }
        Ok(())
    }
}
