//! What changed on a device, page by page, in memory that the answer's length has no part in.
//!
//! Pages are answers to separate questions, and a device goes on changing between them. So what a page tells is held
//! against the first: the generation and the epochs must be the same, and where the interval ends now and an extent has
//! grown meanwhile, the part before the page is left out.

use bowline_api::changes::ChangesParams;
use bowline_api::{Changes, Extent};

use crate::{Client, Result};

/// The pages of one answer; see [`Client::changes_pages`].
#[derive(Debug)]
pub struct ChangesPages<'a> {
    client: &'a Client,
    device: String,
    params: ChangesParams,
    /// The first page, without its extents.
    first: Option<Changes>,
    ended: bool,
}

impl Client {
    /// What changed on a device or image: the page that begins at `params.offset`. Its `next` says where to go on.
    pub fn changes(&self, device: &str, params: &ChangesParams) -> Result<Changes> {
        let given = [
            ("since", params.since.clone()),
            ("until", params.until.clone()),
            ("generation", params.generation.clone()),
            ("offset", params.offset.map(|offset| offset.to_string())),
            ("max_results", params.max_results.map(|max| max.to_string())),
        ];
        let mut target = format!("/v1/devices/{}/changes", bowline_api::names::percent_encode(device));
        let mut separator = '?';
        for (name, value) in given {
            if let Some(value) = value {
                let value = bowline_api::names::percent_encode(&value);
                target.extend([&separator.to_string(), name, "=", &value]);
                separator = '&';
            }
        }
        self.get(&target)
    }

    /// What changed on a device or image, one page after the other until there is no more.
    pub fn changes_pages(&self, device: &str, params: ChangesParams) -> ChangesPages<'_> {
        ChangesPages { client: self, device: device.to_owned(), params, first: None, ended: false }
    }

    /// What changed on a device or image, all of it in one.
    pub fn changes_whole(&self, device: &str, params: ChangesParams) -> Result<Changes> {
        let mut whole: Option<Changes> = None;
        for page in self.changes_pages(device, params) {
            let page = page?;
            match &mut whole {
                None => whole = Some(page),
                Some(whole) => {
                    join(&mut whole.extents, page.extents);
                    join(&mut whole.zeroes, page.zeroes);
                }
            }
        }
        let mut whole = whole.ok_or_else(|| self.strange(&"it has no page"))?;
        whole.bytes = whole.extents.iter().map(|extent| extent.length).sum();
        whole.next = None;
        Ok(whole)
    }
}

/// Appends what follows; two that touch become one.
fn join(extents: &mut Vec<Extent>, more: Vec<Extent>) {
    let mut more = more.into_iter();
    if let (Some(last), Some(first)) = (extents.last_mut(), more.next()) {
        if last.offset.saturating_add(last.length) == first.offset {
            last.length = last.length.saturating_add(first.length);
        } else {
            extents.push(first);
        }
        extents.extend(more);
    } else {
        extents.extend(more);
    }
}

impl ChangesPages<'_> {
    fn next_page(&mut self) -> Result<Changes> {
        let mut page = self.client.changes(&self.device, &self.params)?;
        let begin = u64::try_from(self.params.offset.unwrap_or(0)).unwrap_or(0);
        if self.first.is_some() {
            cut(&mut page.extents, begin);
            cut(&mut page.zeroes, begin);
        }
        page.bytes = page.extents.iter().map(|extent| extent.length).fold(0, u64::saturating_add);
        self.check(&page, begin)?;
        match page.next {
            None => self.ended = true,
            Some(next) => match i64::try_from(next) {
                Ok(offset) if next > begin => self.params.offset = Some(offset),
                _ => {
                    return Err(self
                        .client
                        .strange(&format_args!("after byte {begin} it goes on at {next}")));
                }
            },
        }
        if self.first.is_none() {
            // From here on it must be the same generation: epochs of another cannot be joined.
            self.params.generation = page.generation.map(|generation| generation.to_string());
            let head = Changes { extents: Vec::new(), zeroes: Vec::new(), ..page.clone() };
            self.first = Some(head);
        }
        Ok(page)
    }

    /// The page must be ascending and merged, within the device, and of the same interval as the first.
    fn check(&self, page: &Changes, begin: u64) -> Result<()> {
        for list in [&page.extents, &page.zeroes] {
            let mut end = None;
            for extent in list {
                let stop = extent.offset.checked_add(extent.length).filter(|&stop| stop <= page.size);
                let follows = end.is_none_or(|end| end < extent.offset);
                match stop {
                    Some(stop) if follows && extent.length > 0 && stop > begin => end = Some(stop),
                    _ => {
                        let why =
                            format_args!("extent {} + {} is out of place", extent.offset, extent.length);
                        return Err(self.client.strange(&why));
                    }
                }
            }
        }
        let same = self.first.as_ref().is_none_or(|first| {
            (first.size, first.generation, first.since_epoch, first.until_epoch)
                == (page.size, page.generation, page.since_epoch, page.until_epoch)
        });
        if same {
            return Ok(());
        }
        Err(self
            .client
            .strange(&"the device was resized, or the snapshot replaced, while it was read: ask again"))
    }
}

/// Leaves out what is before `begin`.
fn cut(extents: &mut Vec<Extent>, begin: u64) {
    extents.retain_mut(|extent| {
        let before = begin.saturating_sub(extent.offset).min(extent.length);
        extent.offset += before;
        extent.length -= before;
        extent.length > 0
    });
}

impl Iterator for ChangesPages<'_> {
    type Item = Result<Changes>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let page = self.next_page();
        self.ended |= page.is_err();
        Some(page)
    }
}

#[cfg(test)]
mod tests;
