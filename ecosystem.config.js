// pm2 start ecosystem.config.js && pm2 save
//
// Arguments, all after --netuid optional (.venv/bin/python neurons/miner.py --help):
//   --wallet.name, --wallet.hotkey, --wallet.path   the hotkey that mines; ~/.bittensor/wallets unless told
//   --subtensor.network                             finney, test, local, ws://HOST:PORT, or file:PATH
//   --axon.port, --axon.external_ip, --axon.external_port   where validators that push find us
//   --phase, --config                               what to generate with, and the settings file
//   --logging.debug                                 more lines in the log
module.exports = {
  apps: [
    {
      name: "miner",
      script: "neurons/miner.py",
      cwd: __dirname,
      interpreter: ".venv/bin/python",
      args: "--netuid 17 --wallet.name miner --wallet.hotkey default",
      // 2: a mistake only the operator can put right; 3: deregistered. Starting again helps neither. Because of the
      // back-off below, pm2 then shows "waiting restart", though it waits for nothing.
      stop_exit_codes: [2, 3],
      // Others are worth a restart: 0.5 s after the first, then ever later up to 15 s. One that ran for two minutes
      // was good; after fifty in a row that were not, pm2 gives up.
      autorestart: true,
      exp_backoff_restart_delay: 500,
      min_uptime: 120000,
      max_restarts: 50,
      // A stop lets tasks in hand be generated and submitted, which takes up to 25 s; then comes SIGKILL.
      kill_timeout: 40000,
      // One process owns the GPU.
      instances: 1,
      exec_mode: "fork",
    },
  ],
};
