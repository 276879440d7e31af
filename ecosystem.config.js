// Start with `pm2 start ecosystem.config.js && pm2 save`, from any folder.
//
// Arguments, all after --netuid optional (`sn17-miner run --help` lists more):
//   --wallet.name, --wallet.hotkey, --wallet.path   the hotkey that mines; by default in ~/.bittensor/wallets
//   --subtensor.network                             finney, test, local, ws://HOST:PORT, or file:PATH
//   --axon.port, --axon.external_ip, --axon.external_port   where validators reach the miner's axon
//   --phase, --config                               the phase to generate with, and the settings file
//   --logging.debug                                 more lines in the log
module.exports = {
  apps: [
    {
      name: "miner",
      // Absolute, since pm2 looks for a relative one from the folder that it is started in.
      script: `${__dirname}/neurons/miner.py`,
      cwd: __dirname,
      interpreter: `${__dirname}/.venv/bin/python`,
      args: "--netuid 17 --wallet.name miner --wallet.hotkey default",
      // 2: a mistake that only the operator can correct; 3: not registered. A restart helps neither. Because of the
      // back-off below, pm2 then shows "waiting restart", though it waits for nothing.
      stop_exit_codes: [2, 3],
      // Other exits are followed by a restart: the first after 0.5 s, later ones after up to 15 s. A run of two minutes
      // counts as stable; after fifty unstable runs in a row pm2 gives up.
      autorestart: true,
      exp_backoff_restart_delay: 500,
      min_uptime: 120000,
      max_restarts: 50,
      // On a stop, tasks in progress are generated and submitted, which takes up to 25 s; SIGKILL comes only later.
      kill_timeout: 40000,
      // One process owns the GPU.
      instances: 1,
      exec_mode: "fork",
    },
  ],
};
