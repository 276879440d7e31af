// One result from all sides, with Spark on three.js, framed as validators frame it.

import * as THREE from "three";
import { OrbitControls } from "/static/vendor/three-0.180.0/OrbitControls.js";
import { SparkRenderer, SplatMesh } from "/static/vendor/spark-2.2.0/spark.module.min.js";
import { offerViews, showFacts } from "/static/facts.js";

// The validator's view: degrees, and the distance at which the box's longest side is 1.5.
const [FIELD_OF_VIEW, DISTANCE, ELEVATION, SIDE] = [49.1, 2.5, 15, 1.5];
const BACKDROPS = [0xffffff, 0x17181b, 0x8a8a8a];
const place = (id) => document.getElementById(id);
const asked = new URLSearchParams(location.search);
const key = asked.get("key") ?? "";
// Part of a page that compares two results.
const isPart = asked.has("part");
asked.delete("key");
asked.delete("part");

const canvas = place("canvas");
const renderer = new THREE.WebGLRenderer({ canvas, antialias: false });
const scene = new THREE.Scene();
const camera = new THREE.PerspectiveCamera(FIELD_OF_VIEW, 1, 0.01, 100);
const controls = new OrbitControls(camera, canvas);
controls.enableDamping = true;
controls.autoRotate = !matchMedia("(prefers-reduced-motion: reduce)").matches;
// A picture is drawn when something has changed: the camera, the backdrop, or the order in which Spark sorts.
let changed = true;
const redraw = () => (changed = true);
controls.addEventListener("change", redraw);
scene.add(new SparkRenderer({ renderer, onDirty: redraw }));

function front() {
  // Ends what is left of an earlier turn.
  controls.enableDamping = false;
  controls.update();
  const elevation = (ELEVATION * Math.PI) / 180;
  camera.position.set(0, DISTANCE * Math.sin(elevation), DISTANCE * Math.cos(elevation));
  controls.target.set(0, 0, 0);
  controls.update();
  controls.enableDamping = true;
  // The controls call a move of less than 0.001 no change.
  noteWhereabouts();
}

function fit() {
  renderer.setPixelRatio(Math.min(devicePixelRatio, 2));
  renderer.setSize(innerWidth, innerHeight, false);
  // The object stands in the middle of what the panel leaves free, and fits into its narrower side.
  const isWide = innerWidth > 640;
  const panel = document.querySelector("aside")?.getBoundingClientRect();
  const left = isWide && panel ? panel.right : 0;
  const half = Math.tan((FIELD_OF_VIEW * Math.PI) / 360) / Math.min(1, (innerWidth - left) / innerHeight);
  camera.fov = (Math.atan(half) * 360) / Math.PI;
  camera.aspect = innerWidth / innerHeight;
  camera.setViewOffset(innerWidth, innerHeight, -left / 2, 0, innerWidth, innerHeight);
  camera.updateProjectionMatrix();
  redraw();
}

// Angles in degrees; the distance is multiplied by `closer`.
function move(azimuth, elevation, closer = 1) {
  const offset = new THREE.Spherical().setFromVector3(camera.position.clone().sub(controls.target));
  offset.theta += (azimuth * Math.PI) / 180;
  offset.phi = Math.min(Math.max(offset.phi - (elevation * Math.PI) / 180, 0.05), Math.PI - 0.05);
  offset.radius *= closer;
  camera.position.setFromSpherical(offset).add(controls.target);
  controls.update();
}

const KEYS = { ArrowLeft: [-10, 0], ArrowRight: [10, 0], ArrowUp: [0, 10], ArrowDown: [0, -10], "+": [0, 0, 0.9], "-": [0, 0, 1 / 0.9] };
canvas.addEventListener("keydown", (event) => {
  if (!KEYS[event.key]) return;
  event.preventDefault();
  controls.autoRotate = false;
  showTurning();
  move(...KEYS[event.key]);
});

// Where the camera is, for whoever tests the page or looks at two results at once. Adding 0 makes 0 of -0.
const whereabouts = () => camera.position.toArray().map((part) => (Math.round(1000 * part) / 1000 + 0).toFixed(3)).join(" ");
const noteWhereabouts = () => (canvas.dataset.camera = whereabouts());
controls.addEventListener("change", noteWhereabouts);
function followOther() {
  const channel = new BroadcastChannel("camera");
  let heard = "";
  channel.addEventListener("message", (event) => {
    heard = event.data;
    controls.autoRotate = false;
    showTurning();
    camera.position.fromArray(heard.split(" ").map(Number));
    controls.update();
  });
  controls.addEventListener("change", () => {
    if (whereabouts() !== heard) channel.postMessage(whereabouts());
  });
}

let backdrop = matchMedia("(prefers-color-scheme: dark)").matches ? 1 : 0;
function paint() {
  scene.background = new THREE.Color(BACKDROPS[backdrop]);
  redraw();
}

function showTurning() {
  place("turn").setAttribute("aria-pressed", String(controls.autoRotate));
}

place("turn").addEventListener("click", () => {
  controls.autoRotate = !controls.autoRotate;
  showTurning();
});
place("front").addEventListener("click", () => {
  controls.autoRotate = false;
  showTurning();
  front();
});
place("backdrop").addEventListener("click", () => {
  backdrop = (backdrop + 1) % BACKDROPS.length;
  paint();
});
addEventListener("resize", fit);

async function download() {
  const reply = await fetch(`/results/${key}.ply`);
  if (!reply.ok) throw new Error((await reply.json().catch(() => null))?.error ?? `HTTP ${reply.status}`);
  const total = Number(reply.headers.get("Content-Length"));
  const data = new Uint8Array(total);
  let got = 0;
  for (const reader = reply.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) return data;
    data.set(value, got);
    got += value.length;
    place("progress").textContent = `Loading… ${Math.round((100 * got) / total)} %`;
  }
}

async function show() {
  if (!/^[0-9]{1,19}$/.test(key)) throw new Error("the address names no result");
  // As most viewers of such files expect it: the upper side at -y.
  for (const form of ["ply", "spz"]) place(form).href = `/results/${key}.${form}?up=-y`;
  offerViews(key);
  showFacts(key, asked.toString()).catch(() => {});
  const mesh = new SplatMesh({ fileBytes: await download(), fileType: "ply" });
  await mesh.initialized;
  const box = mesh.getBoundingBox();
  const size = box.getSize(new THREE.Vector3());
  const scale = SIDE / Math.max(size.x, size.y, size.z, 1e-9);
  mesh.scale.setScalar(scale);
  mesh.position.copy(box.getCenter(new THREE.Vector3()).multiplyScalar(-scale));
  scene.add(mesh);
  redraw();
  place("progress").hidden = true;
}

if (innerWidth <= 640 || isPart) place("facts").open = false;
document.body.classList.toggle("part", isPart);
if (isPart) controls.autoRotate = false;
paint();
fit();
front();
if (isPart) followOther();
showTurning();
renderer.setAnimationLoop(() => {
  controls.update();
  if (!changed) return;
  changed = false;
  renderer.render(scene, camera);
});
show().catch((error) => {
  place("progress").textContent = `This result cannot be shown: ${error.message}`;
});
