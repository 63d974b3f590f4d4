//! The network as a drawing: layers from top to bottom, coloured by their verdicts.

use bitproof::QuantizedModel;
use maud::{Markup, html};

use crate::standing::Standing;
use crate::text::{cut, shown};

const NODE_WIDTH: usize = 220;
const NODE_HEIGHT: usize = 44;
const COLUMN: usize = NODE_WIDTH + 16;
/// Height between two rows.
const GAP: usize = 22;
const ROW: usize = NODE_HEIGHT + GAP;
const MARGIN: usize = 6;
/// Distance of the lines that pass layers by.
const LANE: usize = 10;
/// Characters of a name that fit into a box.
const NAME_FITS: usize = 25;
/// Height in the gap between two rows where lines leave for the side, and where they come back.
const LEAVE: usize = 6;
const COME_BACK: usize = 15;
/// How far from the middle of a box these lines start and end.
const ASIDE: usize = 50;

/// Larger networks are not drawn: nobody could read it.
const MAX_NODES: usize = 1000;
const MAX_EDGES: usize = 4000;

/// Where the boxes and the lines are.
struct Layout {
    /// Left upper corner of each node.
    corners: Vec<[usize; 2]>,
    /// Lines that pass a layer by: producer, consumer, lane.
    passing: Vec<(usize, usize, usize)>,
    /// Lines to the next row.
    direct: Vec<(usize, usize)>,
    boxes_width: usize,
    size: [usize; 2],
}

/// Returns whether a network is small enough to be drawn.
fn is_drawn(model: &QuantizedModel) -> bool {
    let n_edges: usize = model.nodes.iter().map(|node| node.inputs.len()).sum();
    model.nodes.len() <= MAX_NODES && n_edges <= MAX_EDGES
}

/// Returns whether the drawing needs the whole width of a large screen.
pub(crate) fn is_wide(model: &QuantizedModel) -> bool {
    is_drawn(model) && layout(model).size[0] > 2 * COLUMN + LANE * 6
}

/// Returns the drawing; each box links to `#layer-INDEX`.
pub(crate) fn drawing(model: &QuantizedModel, standings: &[Standing]) -> Markup {
    if !is_drawn(model) {
        return html! { p { "A network of " (model.nodes.len()) " layers is not drawn." } };
    }
    let layout = layout(model);
    let [width, height] = layout.size;
    let corner = |node: usize| layout.corners.get(node).copied().unwrap_or_default();
    let middle = |node: usize| corner(node)[0] + NODE_WIDTH.div_euclid(2);
    html! {
        svg class="network" width=(width) height=(height) viewBox={ "0 0 " (width) " " (height) }
            xmlns="http://www.w3.org/2000/svg" role="group" aria-label="The network, layer by layer" {
            defs {
                marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto" {
                    path class="arrow" d="M0 0L8 4L0 8z" {}
                }
            }
            @for (from, to) in &layout.direct {
                @let (x, y) = (middle(*from), corner(*from)[1] + NODE_HEIGHT);
                @let (x2, y2) = (middle(*to), corner(*to)[1]);
                path class="edge" marker-end="url(#arrow)"
                    d={ "M" (x) " " (y) "V" (y + 6) "L" (x2) " " (y2 - 8) "V" (y2 - 1) } {}
            }
            @for (from, to, lane) in &layout.passing {
                @let (x, x2) = (middle(*from) + ASIDE, middle(*to) + ASIDE);
                @let (y, y2) = (corner(*from)[1] + NODE_HEIGHT, corner(*to)[1]);
                @let lane = layout.boxes_width + LANE * (lane + 1);
                path class="edge" marker-end="url(#arrow)"
                    d={ "M" (x) " " (y) "V" (y + LEAVE + lane.rem_euclid(7)) "H" (lane) "V" (y2 + COME_BACK - GAP) "H" (x2) "V" (y2 - 1) } {}
            }
            @for (i, (node, standing)) in model.nodes.iter().zip(standings).enumerate() {
                @let [x, y] = corner(i);
                a href={ "#layer-" (i) } aria-label={ (shown(&node.name)) ", " (standing.words()) } {
                    g class={ "node " (standing.class()) } transform={ "translate(" (x) "," (y) ")" } {
                        title { (shown(&node.name)) ": " (standing.words()) }
                        rect width=(NODE_WIDTH) height=(NODE_HEIGHT) rx="6" {}
                        text class="name" x="10" y="18" { (cut(&node.name, NAME_FITS)) }
                        text class="class" x="10" y="34" { (cut(&node.class_name, NAME_FITS)) }
                        text class="sign" x=(NODE_WIDTH - 12) y="28" text-anchor="end" { (standing.sign()) }
                    }
                }
            }
        }
    }
}

/// Places every node in the row after the last of its producers.
fn layout(model: &QuantizedModel) -> Layout {
    let mut rows: Vec<usize> = Vec::with_capacity(model.nodes.len());
    for node in &model.nodes {
        let above = node.inputs.iter().filter_map(|i| rows.get(*i)).max();
        rows.push(above.map_or(0, |row| row + 1));
    }
    let n_rows = rows.iter().max().map_or(0, |row| row + 1);
    let mut in_row = vec![0_usize; n_rows];
    let columns: Vec<usize> = rows
        .iter()
        .map(|row| {
            let place = in_row[*row];
            in_row[*row] += 1;
            place
        })
        .collect();
    let widest = in_row.iter().copied().max().unwrap_or(1).max(1);
    let boxes_width = MARGIN + widest * COLUMN;
    let corner = |(row, column): (&usize, &usize)| {
        // Rows of fewer nodes stand in the middle.
        let indent = (widest - in_row[*row]) * COLUMN.div_euclid(2);
        [MARGIN + indent + column * COLUMN, MARGIN + row * ROW]
    };
    let corners = rows.iter().zip(&columns).map(corner).collect();
    let edges = model.nodes.iter().enumerate().flat_map(|(to, node)| {
        let from = node.inputs.iter().copied();
        from.map(move |from| (from, to))
    });
    let (direct, passing): (Vec<_>, Vec<_>) =
        edges.partition(|(from, to)| rows[*to] == rows[*from] + 1);
    let passing = lanes(&rows, passing);
    let n_lanes = passing
        .iter()
        .map(|(_, _, lane)| lane + 1)
        .max()
        .unwrap_or(0);
    Layout {
        corners,
        passing,
        direct,
        boxes_width,
        size: [
            boxes_width + LANE * (n_lanes + 1),
            2 * MARGIN + n_rows * ROW,
        ],
    }
}

/// Gives each line that passes layers by the first lane that is free from its top to its end.
fn lanes(rows: &[usize], edges: Vec<(usize, usize)>) -> Vec<(usize, usize, usize)> {
    let mut free_from: Vec<usize> = Vec::new();
    let mut edges = edges;
    edges.sort_by_key(|(from, to)| (rows[*from], rows[*to]));
    let mut placed = Vec::with_capacity(edges.len());
    for (from, to) in edges {
        let (top, end) = (rows[from], rows[to]);
        let free = free_from.iter().position(|row| *row <= top);
        let lane = free.unwrap_or(free_from.len());
        if lane == free_from.len() {
            free_from.push(0);
        }
        free_from[lane] = end;
        placed.push((from, to, lane));
    }
    placed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_in_one_lane_do_not_meet() {
        let rows: Vec<usize> = (0..40).collect();
        let edges: Vec<(usize, usize)> = (0_usize..37)
            .flat_map(|from| {
                [
                    (from, from + 2),
                    (from, (from * 7 + 5).rem_euclid(39).max(from + 2)),
                ]
            })
            .collect();
        let placed = lanes(&rows, edges.clone());
        assert_eq!(placed.len(), edges.len(), "every line is there");
        for (i, (from, to, lane)) in placed.iter().enumerate() {
            for (from2, to2, lane2) in &placed[i + 1..] {
                let apart = to <= from2 || to2 <= from;
                assert!(
                    lane != lane2 || apart,
                    "{from}-{to} and {from2}-{to2} in {lane}"
                );
            }
        }
        let n_lanes = placed.iter().map(|(_, _, lane)| lane + 1).max().unwrap();
        let at_once = |row: usize| {
            edges
                .iter()
                .filter(|(a, b)| (*a..*b).contains(&row))
                .count()
        };
        assert_eq!(
            n_lanes,
            (0..40).map(at_once).max().unwrap(),
            "no lane is wasted"
        );
    }
}
